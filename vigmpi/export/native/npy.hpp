// Arrays in files of NumPy's format .npy, in C order.
#ifndef VIGMPI_NPY_HPP
#define VIGMPI_NPY_HPP

#include <cstddef>
#include <string>
#include <vector>

class NpyReader {
public:
    // Map a file into memory. Throws std::runtime_error if it is none, or its values are neither
    // bytes (|u1) nor floats (<f4).
    explicit NpyReader(const std::string &path);
    ~NpyReader();
    NpyReader(const NpyReader &) = delete;
    NpyReader &operator=(const NpyReader &) = delete;

    bool is_bytes() const { return is_bytes_; }
    const std::vector<std::size_t> &shape() const { return shape_; }
    const unsigned char *values() const { return values_; }

private:
    void parse(const std::string &header);

    std::string path_;
    void *memory_ = nullptr;
    std::size_t size_ = 0;
    bool is_bytes_ = false;
    std::vector<std::size_t> shape_;
    const unsigned char *values_ = nullptr;
};

// Write floats [rows, columns]; the file gets its name when it is complete.
void write_npy(const std::string &path, const std::vector<float> &values, std::size_t columns);

#endif
