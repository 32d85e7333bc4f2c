#include "links.hpp"

#include <chrono>
#include <thread>

namespace {

constexpr int TESTS = 1000;
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

Receiver::Receiver(int source, int max_images, std::size_t image_bytes)
    : source_(source), capacity_(static_cast<int>(static_cast<std::size_t>(max_images) * image_bytes)),
      image_bytes_(image_bytes)
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
    MPI_Irecv(buffers_[slot].data(), capacity_, MPI_BYTE, source_, BATCH_TAG, MPI_COMM_WORLD,
              &requests_[slot]);
}

const void *Receiver::receive(int &num_images)
{
    MPI_Status status;
    int count;
    wait_for(requests_[slot_], &status);
    MPI_Get_count(&status, MPI_BYTE, &count);
    num_images = static_cast<int>(static_cast<std::size_t>(count) / image_bytes_);
    return buffers_[slot_].data();
}

void Receiver::release()
{
    post(slot_);
    slot_ = (slot_ + 1) % SLOTS;
}

Sender::Sender(int target, int max_images, std::size_t image_bytes)
    : target_(target), image_bytes_(image_bytes)
{
    for (int slot = 0; slot < SLOTS; slot++) {
        buffers_[slot].resize(static_cast<std::size_t>(max_images) * image_bytes);
        requests_[slot] = MPI_REQUEST_NULL;
    }
}

void *Sender::buffer()
{
    wait_for(requests_[slot_]);
    return buffers_[slot_].data();
}

void Sender::send(int num_images)
{
    int count = static_cast<int>(static_cast<std::size_t>(num_images) * image_bytes_);
    wait_for(requests_[slot_]);
    MPI_Issend(buffers_[slot_].data(), count, MPI_BYTE, target_, BATCH_TAG, MPI_COMM_WORLD,
               &requests_[slot_]);
    slot_ = (slot_ + 1) % SLOTS;
}

void Sender::finish()
{
    for (MPI_Request &request : requests_)
        wait_for(request);
}

void AnswerSender::send(int number, double time)
{
    for (int done = 1; done && !messages_.empty();) {
        MPI_Test(&messages_.front().request, &done, MPI_STATUS_IGNORE);
        if (done)
            messages_.pop_front();
    }
    messages_.push_back({{static_cast<double>(number), time}, MPI_REQUEST_NULL});
    Message &last = messages_.back();
    MPI_Isend(last.content.data(), 2, MPI_DOUBLE, target_, ANSWER_TAG, MPI_COMM_WORLD, &last.request);
}

void AnswerSender::finish()
{
    for (Message &message : messages_)
        wait_for(message.request);
}

bool Answers::poll(int &number, double &time)
{
    int there;
    MPI_Iprobe(source_, ANSWER_TAG, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
    if (there)
        take(number, time);
    return there;
}

void Answers::take(int &number, double &time)
{
    std::array<double, 2> message;
    MPI_Request request;
    MPI_Irecv(message.data(), 2, MPI_DOUBLE, source_, ANSWER_TAG, MPI_COMM_WORLD, &request);
    wait_for(request);
    number = static_cast<int>(message[0]);
    time = message[1];
    taken_ += static_cast<std::size_t>(number);
}

void Answers::take_all(std::size_t requests)
{
    int number;
    double time;
    while (taken_ < requests)
        take(number, time);
}
