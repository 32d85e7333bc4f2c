// The command line of vigmpi_infer, and the errors of its input.
#ifndef VIGMPI_OPTIONS_HPP
#define VIGMPI_OPTIONS_HPP

#include <stdexcept>
#include <string>
#include <vector>

extern const char USAGE[];

// An error of input that this rank has found.
struct InputError : std::runtime_error {
    using runtime_error::runtime_error;
};

// An error of which all ranks know, and the rank that prints it.
struct UsageError : std::runtime_error {
    explicit UsageError(const std::string &text, int speaker = 0) : runtime_error(text), speaker(speaker) {}
    int speaker;
};

constexpr int DEFAULT_BATCH = 16;

struct Options {
    std::string folder, images, output, times, arrivals;
    int stages = 1, batch_size = 0, requests = 0, in_flight = 0; // batch_size 0: DEFAULT_BATCH
    double batch_wait_s = 0;
    std::vector<int> split;
};

// Throw UsageError if the arguments are wrong.
Options parse(int argc, char **argv);

bool asks_for_help(int argc, char **argv);

#endif
