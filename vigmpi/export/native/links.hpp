// Messages between the stages of a pipeline, with a bounded number in flight, and the answers.
//
// A link has as many buffers on either side as messages may wait. The receives are posted ahead
// and are the sender's credits: a synchronous send ends once its receive has been posted, so that
// a slow stage holds back those before it, up to the source.
#ifndef VIGMPI_LINKS_HPP
#define VIGMPI_LINKS_HPP

#include <array>
#include <cstddef>
#include <deque>
#include <vector>

#include <mpi.h>

constexpr int SLOTS = 2;

// Tags of all messages of the program.
enum Tag { BATCH_TAG = 1, ANSWER_TAG, RESULT_TAG, CLOCK_TAG };

// Wait without occupying a core, since waiting ranks may share it with others.
void wait_for(MPI_Request &request, MPI_Status *status = MPI_STATUS_IGNORE);

class Receiver {
public:
    // A buffer holds max_images images of this size.
    Receiver(int source, int max_images, std::size_t image_bytes);
    ~Receiver();
    Receiver(const Receiver &) = delete;
    Receiver &operator=(const Receiver &) = delete;

    // Return the next message, valid until `release`, and its number of images; 0 at the end.
    const void *receive(int &num_images);
    void release();

private:
    void post(int slot);

    int source_, slot_ = 0, capacity_;
    std::size_t image_bytes_;
    std::vector<unsigned char> buffers_[SLOTS];
    MPI_Request requests_[SLOTS];
};

class Sender {
public:
    Sender(int target, int max_images, std::size_t image_bytes);

    // Return the buffer of the next message, once an earlier one has left it.
    void *buffer();
    // Send the images in it; 0 says that there are no more.
    void send(int num_images);
    void finish();

private:
    int target_, slot_ = 0;
    std::size_t image_bytes_;
    std::vector<unsigned char> buffers_[SLOTS];
    MPI_Request requests_[SLOTS];
};

// The times at which the last stage has finished batches, on their way to the first one.
class AnswerSender {
public:
    explicit AnswerSender(int target) : target_(target) {}
    // Send without waiting, since the first stage may wait for the last one.
    void send(int number, double time);
    void finish();

private:
    int target_;
    struct Message {
        std::array<double, 2> content;
        MPI_Request request;
    };
    std::deque<Message> messages_; // that may be under way
};

class Answers {
public:
    explicit Answers(int source) : source_(source) {}
    // Take the next answer, if there is one: its number of requests, and its time.
    bool poll(int &number, double &time);
    // Take the rest of this many answered requests.
    void take_all(std::size_t requests);

private:
    void take(int &number, double &time);

    int source_;
    std::size_t taken_ = 0;
};

#endif
