// Arrays in files of NumPy's format .npy, in C order. An error of input is an InputError.
#ifndef VIGMPI_NPY_HPP
#define VIGMPI_NPY_HPP

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

// An error of input that this rank has found.
struct InputError : std::runtime_error {
    using runtime_error::runtime_error;
};

class NpyReader {
public:
    // Map a file into memory, whose values are bytes (|u1) or floats (<f4).
    explicit NpyReader(const std::string &path);

    bool is_bytes() const { return is_bytes_; }
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
    bool is_bytes_ = false;
    std::vector<std::size_t> shape_;
    const unsigned char *values_ = nullptr;
};

// Throw InputError if a file cannot be written at a path.
void check_writable(const std::string &path);

// Write floats [rows, columns]; the file gets its name when it is complete.
void write_npy(const std::string &path, const std::vector<float> &values, std::size_t columns);

#endif
