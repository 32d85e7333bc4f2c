// The requests of a replica: when they arrive, and how they are grouped into batches.
#ifndef VIGMPI_REQUESTS_HPP
#define VIGMPI_REQUESTS_HPP

#include <cstddef>
#include <vector>

#include "clock.hpp"
#include "links.hpp"

class Requests {
public:
    // Requests that arrive at these times, in seconds and ascending order.
    Requests(std::vector<double> arrivals, int batch_size, double wait_s);
    // `total` requests, of which `in_flight` are there at first; the others arrive as some are answered.
    Requests(std::size_t total, std::size_t in_flight, int batch_size, double wait_s);

    // Wait for the next batch, and return its number of requests, or 0 after the last one. A batch is
    // complete if it has its full size, if no request can come before its answers, or if its first
    // request has waited.
    int next(const Clock &clock, Answers *answers);

    // Take the answers to a batch.
    void answered(int number, double time);

    // The arrivals so far, in the order of the requests.
    const std::vector<double> &arrivals() const { return arrivals_; }

private:
    // The number of requests of the next batch that have arrived at a time.
    std::size_t waiting(double time) const;
    // When the next batch changes or is complete, or infinity.
    double next_event(std::size_t waiting) const;

    std::vector<double> arrivals_;
    std::size_t total_, taken_ = 0, answered_ = 0, batch_size_;
    double wait_s_;
};

#endif
