// Arrays in files of NumPy's format .npy, in C order. An error of input is an InputError.
#ifndef VIGMPI_NPY_HPP
#define VIGMPI_NPY_HPP

#include <cstddef>
#include <string>
#include <vector>

class NpyReader {
public:
    // Map a file into memory, whose values are pixels (|u1), floats (<f4) or doubles (<f8).
    explicit NpyReader(const std::string &path);

    std::size_t value_bytes() const { return value_bytes_; }
    const std::vector<std::size_t> &shape() const { return shape_; }
    const unsigned char *values() const { return values_; }

private:
    void parse(const std::string &header);

    struct Mapping {
        ~Mapping();
        void *memory = nullptr;
        std::size_t size = 0;
    };

    Mapping mapping_;
    std::size_t value_bytes_ = 0;
    std::vector<std::size_t> shape_;
    const unsigned char *values_ = nullptr;
};

// Throw InputError if a file cannot be written at a path.
void check_writable(const std::string &path);

// Write floats or doubles [rows, columns]; the file gets its name when it is complete.
void write_npy(const std::string &path, const std::vector<unsigned char> &values, std::size_t columns,
               std::size_t value_bytes);

#endif
