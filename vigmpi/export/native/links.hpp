// Messages between the stages of a pipeline, with a bounded number in flight.
//
// A link has as many buffers on either side as messages may wait. The receives are posted ahead
// and are the sender's credits: a synchronous send ends once its receive has been posted, so that
// a slow stage holds back those before it, up to the source.
#ifndef VIGMPI_LINKS_HPP
#define VIGMPI_LINKS_HPP

#include <cstddef>
#include <vector>

#include <mpi.h>

constexpr int SLOTS = 2;

// Wait without occupying a core, since waiting ranks may share it with others.
void wait_for(MPI_Request &request, MPI_Status *status = MPI_STATUS_IGNORE);

class Receiver {
public:
    // max_images messages of `values` floats each fit into a buffer.
    Receiver(int source, int max_images, std::size_t values);
    ~Receiver();
    Receiver(const Receiver &) = delete;
    Receiver &operator=(const Receiver &) = delete;

    // Return the next message, valid until `release`, and its number of images; 0 at the end.
    const float *receive(int &num_images);
    void release();

private:
    void post(int slot);

    int source_, slot_ = 0, capacity_;
    std::size_t values_;
    std::vector<float> buffers_[SLOTS];
    MPI_Request requests_[SLOTS];
};

class Sender {
public:
    Sender(int target, int max_images, std::size_t values);

    // Return the buffer of the next message, once an earlier one has left it.
    float *buffer();
    // Send the images in it; 0 says that there are no more.
    void send(int num_images);
    void finish();

private:
    int target_, slot_ = 0;
    std::size_t values_;
    std::vector<float> buffers_[SLOTS];
    MPI_Request requests_[SLOTS];
};

#endif
