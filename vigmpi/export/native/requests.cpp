#include "requests.hpp"

#include <algorithm>
#include <limits>

namespace {

constexpr double POLL_S = 50e-6; // between looks for answers

} // namespace

Requests::Requests(std::vector<double> arrivals, int batch_size, double wait_s)
    : arrivals_(std::move(arrivals)), total_(arrivals_.size()),
      batch_size_(static_cast<std::size_t>(batch_size)), wait_s_(wait_s)
{
}

Requests::Requests(std::size_t total, std::size_t in_flight, int batch_size, double wait_s)
    : arrivals_(std::min(total, in_flight)), total_(total),
      batch_size_(static_cast<std::size_t>(batch_size)), wait_s_(wait_s)
{
}

int Requests::next(const Clock &clock, Answers *answers)
{
    for (;;) {
        int number;
        double time;
        while (answers && answers->poll(number, time))
            answered(number, time);
        if (taken_ == total_)
            return 0;
        time = clock.now();
        std::size_t count = waiting(time);
        bool is_last = taken_ + count == total_;
        bool is_all = taken_ + count == arrivals_.size() && taken_ == answered_;
        if (count && (count == batch_size_ || is_last || is_all || time >= arrivals_[taken_] + wait_s_)) {
            taken_ += count;
            return static_cast<int>(count);
        }
        double pause = next_event(count) - time;
        clock.sleep(answers ? std::min(pause, POLL_S) : pause);
    }
}

std::size_t Requests::waiting(double time) const
{
    auto first = arrivals_.begin() + static_cast<std::ptrdiff_t>(taken_);
    auto last = arrivals_.begin() + static_cast<std::ptrdiff_t>(std::min(arrivals_.size(), taken_ + batch_size_));
    return static_cast<std::size_t>(std::upper_bound(first, last, time) - first);
}

double Requests::next_event(std::size_t waiting) const
{
    if (taken_ == arrivals_.size())
        return std::numeric_limits<double>::infinity();
    if (!waiting)
        return arrivals_[taken_];
    double event = arrivals_[taken_] + wait_s_;
    if (taken_ + waiting < arrivals_.size())
        event = std::min(event, arrivals_[taken_ + waiting]);
    return event;
}

void Requests::answered(int number, double time)
{
    answered_ += static_cast<std::size_t>(number);
    for (; number && arrivals_.size() < total_; number--)
        arrivals_.push_back(time);
}
