// A clock that all ranks share, also on several hosts.
#ifndef VIGMPI_CLOCK_HPP
#define VIGMPI_CLOCK_HPP

class Clock {
public:
    // Compare the clocks of all ranks with that of rank 0, and start at 0. Collective.
    Clock();

    // Seconds since the start.
    double now() const;
    void sleep(double seconds) const;

private:
    double start_; // by this rank's own clock
};

#endif
