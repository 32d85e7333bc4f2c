#include "clock.hpp"

#include <chrono>
#include <limits>
#include <thread>

#include <mpi.h>

#include "links.hpp"

namespace {

constexpr int ROUNDS = 20;
constexpr double LEAD_S = 0.01; // all ranks know the start before it comes

double own_clock()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// By how much this rank's clock is ahead of that of rank 0, from the fastest of several round
// trips, half of which bounds the error.
double offset_of(int rank, int size)
{
    double offset = 0;
    for (int other = 1; other < size; other++) {
        double shortest = std::numeric_limits<double>::infinity(), theirs = 0;
        for (int round = 0; round < ROUNDS; round++) {
            if (rank == 0) {
                MPI_Recv(&theirs, 1, MPI_DOUBLE, other, CLOCK_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                theirs = own_clock();
                MPI_Send(&theirs, 1, MPI_DOUBLE, other, CLOCK_TAG, MPI_COMM_WORLD);
            } else if (rank == other) {
                double begin = own_clock();
                MPI_Send(&begin, 1, MPI_DOUBLE, 0, CLOCK_TAG, MPI_COMM_WORLD);
                MPI_Recv(&theirs, 1, MPI_DOUBLE, 0, CLOCK_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                double end = own_clock();
                if (end - begin < shortest) {
                    shortest = end - begin;
                    offset = (begin + end) / 2 - theirs;
                }
            }
        }
    }
    return offset;
}

} // namespace

Clock::Clock()
{
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    double offset = offset_of(rank, size);
    MPI_Barrier(MPI_COMM_WORLD);
    start_ = own_clock() + LEAD_S;
    MPI_Bcast(&start_, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    start_ += offset;
    sleep(-now());
}

double Clock::now() const { return own_clock() - start_; }

void Clock::sleep(double seconds) const
{
    if (seconds > 0)
        std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}
