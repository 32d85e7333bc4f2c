#include "npy.hpp"

#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "options.hpp"

namespace {

const char MAGIC[] = "\x93NUMPY";

struct Type {
    const char *name;
    std::size_t bytes;
};
const Type TYPES[] = {{"'|u1'", 1}, {"'<f4'", sizeof(float)}, {"'<f8'", sizeof(double)}};

InputError problem(const std::string &path, const std::string &reason)
{
    return InputError("cannot read array: " + path + " (" + reason +
                      "). Use a .npy file of uint8, float32 or float64 in C order.");
}

std::string unwritable(const std::string &path, int error)
{
    return "cannot write array: " + path + " (" + std::strerror(error) +
           "). Use another path.";
}

// The text of a key's value in the header, which is a dictionary of Python.
std::string value_of(const std::string &header, const std::string &key)
{
    std::size_t start = header.find("'" + key + "':");
    if (start == std::string::npos)
        throw std::invalid_argument("its header has no " + key);
    start = header.find_first_not_of(' ', start + key.size() + 3);
    std::size_t end = std::string::npos;
    if (start != std::string::npos)
        end = header.find_first_of(header[start] == '(' ? ")" : ",}", start);
    if (end == std::string::npos)
        throw std::invalid_argument("its header is damaged");
    return header.substr(start, end - start);
}

} // namespace

NpyReader::Mapping::~Mapping()
{
    if (memory)
        munmap(memory, size);
}

NpyReader::NpyReader(const std::string &path)
{
    int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe does not block
    if (file < 0)
        throw problem(path, std::strerror(errno));
    struct stat status;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
        mapping_.size = static_cast<std::size_t>(status.st_size);
        void *memory = mmap(nullptr, mapping_.size, PROT_READ, MAP_PRIVATE, file, 0);
        mapping_.memory = memory == MAP_FAILED ? nullptr : memory;
    }
    close(file);
    if (!mapping_.memory)
        throw problem(path, "it cannot be mapped into memory");
    const auto *bytes = static_cast<const unsigned char *>(mapping_.memory);
    std::size_t start = mapping_.size > 10 && bytes[6] == 1 ? 10 : 12, length = 0;
    if (mapping_.size < start || std::memcmp(bytes, MAGIC, 6) != 0 || bytes[6] < 1 || bytes[6] > 3)
        throw problem(path, "it has not NumPy's format");
    for (std::size_t i = start; i > 8; i--)
        length = length << 8 | bytes[i - 1];
    if (length > mapping_.size - start)
        throw problem(path, "it is too short");
    values_ = bytes + start + length;
    try {
        parse(std::string(reinterpret_cast<const char *>(bytes) + start, length));
    } catch (const std::invalid_argument &error) {
        throw problem(path, error.what());
    }
}

void NpyReader::parse(const std::string &header)
{
    std::string type = value_of(header, "descr"), shape = value_of(header, "shape");
    for (const Type &known : TYPES)
        if (type == known.name)
            value_bytes_ = known.bytes;
    if (!value_bytes_)
        throw std::invalid_argument("its values are " + type);
    if (value_of(header, "fortran_order") != "False")
        throw std::invalid_argument("it is in Fortran order");
    std::size_t count = value_bytes_;
    const auto *bytes = static_cast<const unsigned char *>(mapping_.memory);
    std::size_t available = mapping_.size - static_cast<std::size_t>(values_ - bytes);
    for (std::size_t at = 1; at < shape.size();) {
        std::size_t used = 0, side = 0;
        for (; at + used < shape.size() && std::isdigit(static_cast<unsigned char>(shape[at + used])); used++)
            side = side * 10 + static_cast<std::size_t>(shape[at + used] - '0');
        if (used == 0 || used > 18)
            throw std::invalid_argument("its shape is " + shape);
        shape_.push_back(side);
        if (side && count > SIZE_MAX / side)
            throw std::invalid_argument("its shape is too large");
        count *= side;
        at = shape.find_first_not_of(", ", at + used);
    }
    if (count > available)
        throw std::invalid_argument("it is too short");
}

void check_writable(const std::string &path)
{
    struct stat status;
    if (stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
        throw InputError(unwritable(path, EISDIR));
    std::FILE *file = std::fopen((path + ".part").c_str(), "wb");
    if (!file)
        throw InputError(unwritable(path, errno));
    std::fclose(file);
    std::remove((path + ".part").c_str());
}

void write_npy(const std::string &path, const std::vector<unsigned char> &values, std::size_t columns,
               std::size_t value_bytes)
{
    std::string header = "{'descr': '<f" + std::to_string(value_bytes) +
                         "', 'fortran_order': False, 'shape': (" +
                         std::to_string(values.size() / (columns * value_bytes)) + ", " +
                         std::to_string(columns) + "), }";
    header.append(63 - (header.size() + 10) % 64, ' ');
    header += '\n';
    unsigned char start[10] = {0};
    std::memcpy(start, MAGIC, 6);
    start[6] = 1;
    start[8] = static_cast<unsigned char>(header.size() & 0xff);
    start[9] = static_cast<unsigned char>(header.size() >> 8);
    std::string unfinished = path + ".part";
    std::FILE *file = std::fopen(unfinished.c_str(), "wb");
    bool written = file && std::fwrite(start, 1, 10, file) == 10 &&
                   std::fwrite(header.data(), 1, header.size(), file) == header.size() &&
                   std::fwrite(values.data(), 1, values.size(), file) == values.size();
    int error = errno;
    if (file && std::fclose(file) != 0 && written) {
        written = false;
        error = errno;
    }
    if (written && std::rename(unfinished.c_str(), path.c_str()) == 0)
        return;
    if (written)
        error = errno;
    if (file)
        std::remove(unfinished.c_str());
    throw std::runtime_error(unwritable(path, error));
}
