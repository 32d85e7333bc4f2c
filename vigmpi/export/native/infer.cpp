// Pipelined inference with an export: S stages x R replicas of the pipeline, over MPI.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <mpi.h>

#include "links.hpp"
#include "npy.hpp"

extern "C" {
#include "manifest.h"
#include "vigmpi_infer.h"
}

namespace {

const char USAGE[] =
    "usage: mpiexec -n S*R vigmpi_infer EXPORT IMAGES.npy [--output LOGITS.npy]\n"
    "           [--stages S] [--split N,N,...] [--batch-size N]\n"
    "\n"
    "Classify images with an export of vigmpi, on R replicas of a pipeline of S stages.\n"
    "IMAGES.npy holds bytes [images, height, width, 3], or float32 values [images, 3, height,\n"
    "width] that are normalised already. Without --output, a table is printed: the number of each\n"
    "image, its most probable class, and that class's probability.\n"
    "\n"
    "  --stages S      number of stages (default: 1)\n"
    "  --split N,N     number of blocks on each stage (default: even)\n"
    "  --batch-size N  images that a stage processes at a time (default: 16)\n";

constexpr int RESULT_TAG = 2, MAX_BATCH = 4096, RESULT_CHUNK = 1 << 20;

// An error of which all ranks know.
struct UsageError : std::runtime_error {
    using runtime_error::runtime_error;
};

struct Options {
    std::string folder, images, output;
    int stages = 1, batch_size = 16;
    std::vector<int> split;
};

// Where a rank is: rank = replica * stages + stage.
struct Place {
    int rank, size, stage, replica, stages, replicas;

    bool is_first() const { return stage == 0; }
    bool is_last() const { return stage == stages - 1; }
};

int whole_number(const std::string &option, const char *text, long maximum)
{
    char *end;
    long number = std::strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || (*end && *end != ',') || number < 1 || number > maximum)
        throw UsageError("invalid value: " + option + " " + text + ". Use a number from 1 to " +
                         std::to_string(maximum) + ".");
    return static_cast<int>(number);
}

Options parse(int argc, char **argv)
{
    Options options;
    std::vector<std::string> paths;
    for (int i = 1; i < argc; i++) {
        std::string name = argv[i];
        if (name.rfind("--", 0) != 0) {
            paths.push_back(name);
            continue;
        }
        if (++i == argc)
            throw UsageError("value missing: " + name + ". See vigmpi_infer --help.");
        if (name == "--output") {
            options.output = argv[i];
        } else if (name == "--stages") {
            options.stages = whole_number(name, argv[i], 1024);
        } else if (name == "--batch-size") {
            options.batch_size = whole_number(name, argv[i], MAX_BATCH);
        } else if (name == "--split") {
            for (const char *at = argv[i]; at; at = std::strchr(at, ',') ? std::strchr(at, ',') + 1 : nullptr)
                options.split.push_back(whole_number(name, at, 1024));
        } else {
            throw UsageError("unknown option: " + name + ". See vigmpi_infer --help.");
        }
    }
    if (paths.size() != 2)
        throw UsageError("an export and a file of images are needed: " +
                         std::to_string(paths.size()) + " paths were given. See vigmpi_infer --help.");
    options.folder = paths[0];
    options.images = paths[1];
    return options;
}

Place place_of_this_rank(const Options &options)
{
    Place place = {};
    MPI_Comm_rank(MPI_COMM_WORLD, &place.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &place.size);
    place.stages = options.stages;
    if (place.size % place.stages)
        throw UsageError("wrong number of ranks: " + std::to_string(place.size) + " for --stages " +
                         std::to_string(place.stages) + ". Use a multiple of it with mpiexec -n.");
    place.replicas = place.size / place.stages;
    place.stage = place.rank % place.stages;
    place.replica = place.rank / place.stages;
    return place;
}

void check(int status)
{
    if (status)
        throw std::runtime_error(vigmpi_last_error());
}

// The layers of a stage: they are cut directly behind its last block.
struct Range {
    int first, number;
};

Range layers_of(const Options &options, const Place &place)
{
    vigmpi_manifest manifest;
    check(vigmpi_manifest_read(options.folder.c_str(), &manifest));
    std::vector<int> ends; // behind each block
    int status = 0, is_block, num_layers = manifest.num_layers;
    for (int layer = 0; layer < num_layers && !status; layer++) {
        status = vigmpi_manifest_whole(&manifest, layer, "is_block", &is_block);
        if (!status && is_block)
            ends.push_back(layer + 1);
    }
    vigmpi_manifest_free(&manifest);
    check(status);
    int blocks = static_cast<int>(ends.size());
    std::vector<int> sizes = options.split;
    if (sizes.empty())
        for (int stage = 0; stage < place.stages; stage++)
            sizes.push_back(blocks / place.stages + (stage < blocks % place.stages));
    int sum = 0;
    for (int size : sizes)
        sum += size;
    if (static_cast<int>(sizes.size()) != place.stages || sum != blocks || blocks < place.stages)
        throw UsageError("split does not fit: " + std::to_string(place.stages) + " stages for " +
                         std::to_string(blocks) + " blocks. Use --split with one number of blocks "
                         "for each stage.");
    int before = 0;
    for (int stage = 0; stage < place.stage; stage++)
        before += sizes[static_cast<std::size_t>(stage)];
    int own = before + sizes[static_cast<std::size_t>(place.stage)];
    int first = place.is_first() ? 0 : ends[static_cast<std::size_t>(before) - 1];
    int last = place.is_last() ? num_layers : ends[static_cast<std::size_t>(own) - 1];
    return {first, last - first};
}

struct Close {
    void operator()(vigmpi_model *model) const { vigmpi_close(model); }
};
using Model = std::unique_ptr<vigmpi_model, Close>;

Model open_stage(const Options &options, const Place &place)
{
    Range range = layers_of(options, place);
    vigmpi_model *model;
    check(vigmpi_open(options.folder.c_str(), range.first, range.number, &model));
    return Model(model);
}

// The images, and the batches that a replica takes: number replica, replica + replicas, ...
class Source {
public:
    Source(const Options &options, const Place &place, const vigmpi_model *model)
        : array_(options.images), model_(model), values_(static_cast<std::size_t>(vigmpi_input_values(model))),
          batch_size_(static_cast<std::size_t>(options.batch_size)),
          next_(static_cast<std::size_t>(place.replica) * batch_size_),
          step_(static_cast<std::size_t>(place.replicas) * batch_size_)
    {
        const auto &shape = array_.shape();
        std::size_t values = 1;
        for (std::size_t axis = 1; axis < shape.size(); axis++)
            values *= shape[axis];
        std::size_t channels = shape.size() == 4 ? shape[array_.is_bytes() ? 3 : 1] : 0;
        if (channels != 3 || values != values_)
            throw std::runtime_error(
                "images do not fit: " + options.images + " has " + std::to_string(values) +
                " values an image, where the model needs " + std::to_string(values_) +
                ". Use bytes [images, height, width, 3] or float32 [images, 3, height, width].");
    }

    std::size_t num_images() const { return array_.shape()[0]; }

    // Write the next batch's values, and return its number of images, or 0 at the end.
    int next(float *values)
    {
        if (next_ >= num_images())
            return 0;
        int number = static_cast<int>(std::min(batch_size_, num_images() - next_));
        const unsigned char *start = array_.values() + next_ * values_ * (array_.is_bytes() ? 1 : sizeof(float));
        if (array_.is_bytes())
            check(vigmpi_normalize(model_, start, number, values));
        else
            std::memcpy(values, start, static_cast<std::size_t>(number) * values_ * sizeof(float));
        next_ += step_;
        return number;
    }

private:
    NpyReader array_;
    const vigmpi_model *model_;
    std::size_t values_, batch_size_, next_, step_;
};

// Run all batches of this rank's replica through its stage, and return the logits of a last stage.
std::vector<float> run_stage(const Options &options, const Place &place, vigmpi_model *model, Source *source)
{
    auto inputs = static_cast<std::size_t>(vigmpi_input_values(model));
    auto outputs = static_cast<std::size_t>(vigmpi_output_values(model));
    std::vector<float> own(source ? static_cast<std::size_t>(options.batch_size) * inputs : 0), results;
    std::unique_ptr<Receiver> receiver;
    std::unique_ptr<Sender> sender;
    if (!place.is_first())
        receiver = std::make_unique<Receiver>(place.rank - 1, options.batch_size, inputs);
    if (!place.is_last())
        sender = std::make_unique<Sender>(place.rank + 1, options.batch_size, outputs);
    for (;;) {
        int number;
        const float *batch = own.data();
        if (source)
            number = source->next(own.data());
        else
            batch = receiver->receive(number);
        if (number == 0)
            break;
        if (sender) {
            check(vigmpi_run(model, batch, number, sender->buffer()));
            sender->send(number);
        } else {
            std::size_t before = results.size();
            results.resize(before + static_cast<std::size_t>(number) * outputs);
            check(vigmpi_run(model, batch, number, results.data() + before));
        }
        if (receiver)
            receiver->release();
    }
    if (sender) {
        sender->send(0);
        sender->finish();
    }
    return results;
}

void send_results(const std::vector<float> &results)
{
    for (std::size_t start = 0; start < results.size(); start += RESULT_CHUNK)
        MPI_Send(results.data() + start, static_cast<int>(std::min<std::size_t>(RESULT_CHUNK, results.size() - start)),
                 MPI_FLOAT, 0, RESULT_TAG, MPI_COMM_WORLD);
}

// Collect the logits of all replicas on rank 0, in the order of the images.
std::vector<float> collect(const Options &options, const Place &place, std::size_t num_images,
                           std::size_t classes, const std::vector<float> &own)
{
    std::vector<float> all(num_images * classes), replica;
    auto batch = static_cast<std::size_t>(options.batch_size);
    auto step = batch * static_cast<std::size_t>(place.replicas);
    for (int r = 0; r < place.replicas; r++) {
        std::size_t count = 0, first = static_cast<std::size_t>(r) * batch;
        for (std::size_t start = first; start < num_images; start += step)
            count += std::min(batch, num_images - start) * classes;
        int rank = r * place.stages + place.stages - 1;
        replica = own;
        if (rank != 0) {
            replica.resize(count);
            for (std::size_t start = 0; start < count; start += RESULT_CHUNK)
                MPI_Recv(replica.data() + start, static_cast<int>(std::min<std::size_t>(RESULT_CHUNK, count - start)),
                         MPI_FLOAT, rank, RESULT_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        }
        const float *next = replica.data();
        for (std::size_t start = first; start < num_images; start += step) {
            std::size_t values = std::min(batch, num_images - start) * classes;
            std::copy(next, next + values, all.data() + start * classes);
            next += values;
        }
    }
    return all;
}

void print_table(const vigmpi_model *model, const std::vector<float> &logits, std::size_t classes)
{
    for (std::size_t image = 0; image * classes < logits.size(); image++) {
        const float *row = logits.data() + image * classes;
        std::size_t best = static_cast<std::size_t>(std::max_element(row, row + classes) - row);
        double sum = 0;
        for (std::size_t k = 0; k < classes; k++)
            sum += std::exp(static_cast<double>(row[k]) - static_cast<double>(row[best]));
        std::printf("%zu  %s  %.1f%%\n", image, vigmpi_class_name(model, static_cast<int>(best)), 100 / sum);
    }
    if (std::fflush(stdout))
        throw std::runtime_error("cannot write to standard output: the table. Use another file or reader.");
}

void run(const Options &options, const Place &place)
{
    Model model = open_stage(options, place);
    std::unique_ptr<Source> source;
    if (place.is_first())
        source = std::make_unique<Source>(options, place, model.get());
    unsigned long long sizes[2] = {source ? source->num_images() : 0,
                                   static_cast<unsigned long long>(vigmpi_output_values(model.get()))};
    MPI_Bcast(&sizes[0], 1, MPI_UNSIGNED_LONG_LONG, 0, MPI_COMM_WORLD);
    MPI_Bcast(&sizes[1], 1, MPI_UNSIGNED_LONG_LONG, place.stages - 1, MPI_COMM_WORLD);
    std::vector<float> zeros(static_cast<std::size_t>(vigmpi_input_values(model.get())));
    std::vector<float> ignored(static_cast<std::size_t>(vigmpi_output_values(model.get())));
    check(vigmpi_run(model.get(), zeros.data(), 1, ignored.data())); // touches all memory
    MPI_Barrier(MPI_COMM_WORLD);
    double begun = MPI_Wtime();
    std::vector<float> results = run_stage(options, place, model.get(), source.get());
    double own_s = MPI_Wtime() - begun, longest_s = 0;
    MPI_Reduce(&own_s, &longest_s, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (place.is_last() && place.rank > 0)
        send_results(results);
    if (place.rank > 0)
        return;
    std::size_t num_images = sizes[0], classes = sizes[1];
    std::vector<float> logits = collect(options, place, num_images, classes, results);
    if (options.output.empty())
        print_table(model.get(), logits, classes);
    else
        write_npy(options.output, logits, classes);
    std::fprintf(stderr, "%zu images in %.3f s: %.1f images/s on %d stages x %d replicas\n", num_images, longest_s,
                 static_cast<double>(num_images) / longest_s, place.stages, place.replicas);
}

} // namespace

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int rank, status = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    try {
        if (argc > 1 && (!std::strcmp(argv[1], "--help") || !std::strcmp(argv[1], "-h"))) {
            if (rank == 0)
                std::fputs(USAGE, stdout);
        } else {
            Options options = parse(argc, argv);
            run(options, place_of_this_rank(options));
        }
    } catch (const UsageError &error) {
        if (rank == 0)
            std::fprintf(stderr, "vigmpi_infer: error: %s\n", error.what());
        status = 2;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "vigmpi_infer: error: rank %d: %s\n", rank, error.what());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Finalize();
    return status;
}
