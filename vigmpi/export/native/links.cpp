#include "links.hpp"

#include <chrono>
#include <thread>

namespace {

constexpr int TAG = 1, TESTS = 1000;
constexpr std::chrono::microseconds PAUSE(50);

} // namespace

void wait_for(MPI_Request &request, MPI_Status *status)
{
    int done = 0;
    for (int tests = 0; !done; tests++) {
        MPI_Test(&request, &done, status);
        if (!done && tests > TESTS)
            std::this_thread::sleep_for(PAUSE);
    }
}

Receiver::Receiver(int source, int max_images, std::size_t values)
    : source_(source), capacity_(static_cast<int>(static_cast<std::size_t>(max_images) * values)),
      values_(values)
{
    for (int slot = 0; slot < SLOTS; slot++) {
        buffers_[slot].resize(static_cast<std::size_t>(capacity_));
        post(slot);
    }
}

Receiver::~Receiver()
{
    for (MPI_Request &request : requests_)
        if (request != MPI_REQUEST_NULL) {
            MPI_Cancel(&request); // nothing follows the end
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        }
}

void Receiver::post(int slot)
{
    MPI_Irecv(buffers_[slot].data(), capacity_, MPI_FLOAT, source_, TAG, MPI_COMM_WORLD,
              &requests_[slot]);
}

const float *Receiver::receive(int &num_images)
{
    MPI_Status status;
    int count;
    wait_for(requests_[slot_], &status);
    MPI_Get_count(&status, MPI_FLOAT, &count);
    num_images = static_cast<int>(static_cast<std::size_t>(count) / values_);
    return buffers_[slot_].data();
}

void Receiver::release()
{
    post(slot_);
    slot_ = (slot_ + 1) % SLOTS;
}

Sender::Sender(int target, int max_images, std::size_t values) : target_(target), values_(values)
{
    for (int slot = 0; slot < SLOTS; slot++) {
        buffers_[slot].resize(static_cast<std::size_t>(max_images) * values);
        requests_[slot] = MPI_REQUEST_NULL;
    }
}

float *Sender::buffer()
{
    wait_for(requests_[slot_]);
    return buffers_[slot_].data();
}

void Sender::send(int num_images)
{
    int count = static_cast<int>(static_cast<std::size_t>(num_images) * values_);
    wait_for(requests_[slot_]);
    MPI_Issend(buffers_[slot_].data(), count, MPI_FLOAT, target_, TAG, MPI_COMM_WORLD,
               &requests_[slot_]);
    slot_ = (slot_ + 1) % SLOTS;
}

void Sender::finish()
{
    for (MPI_Request &request : requests_)
        wait_for(request);
}
