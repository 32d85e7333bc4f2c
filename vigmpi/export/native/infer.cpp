// Pipelined inference with an export: S stages x R replicas of the pipeline, over MPI.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
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

// An error of which all ranks know, and the rank that prints it.
struct UsageError : std::runtime_error {
    explicit UsageError(const std::string &text, int speaker = 0)
        : runtime_error(text), speaker(speaker)
    {
    }
    int speaker;
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

int whole_number(const std::string &option, const std::string &text, long maximum)
{
    char *end;
    long number = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || text[0] < '0' || text[0] > '9' || *end || number < 1 || number > maximum)
        throw UsageError("invalid value: " + option + " " + text + ". Use a number from 1 to " +
                         std::to_string(maximum) + ".");
    return static_cast<int>(number);
}

std::vector<int> whole_numbers(const std::string &option, const std::string &text)
{
    std::vector<int> numbers;
    for (std::size_t start = 0, end; start != std::string::npos; start = end) {
        end = text.find(',', start);
        numbers.push_back(whole_number(option, text.substr(start, end - start), 1024));
        end += end != std::string::npos;
    }
    return numbers;
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
        if (name != "--output" && name != "--stages" && name != "--batch-size" && name != "--split")
            throw UsageError("unknown option: " + name + ". See vigmpi_infer --help.");
        if (++i == argc)
            throw UsageError("value missing: " + name + ". See vigmpi_infer --help.");
        if (name == "--output")
            options.output = argv[i];
        else if (name == "--stages")
            options.stages = whole_number(name, argv[i], 1024);
        else if (name == "--batch-size")
            options.batch_size = whole_number(name, argv[i], MAX_BATCH);
        else
            options.split = whole_numbers(name, argv[i]);
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
    if (status == VIGMPI_INPUT)
        throw InputError(vigmpi_last_error());
    if (status)
        throw std::runtime_error(vigmpi_last_error());
}

// Call a function on all ranks; if input is wrong on one, the lowest such rank prints why.
template <typename Function> void together(const Place &place, Function function)
{
    std::string text;
    try {
        function();
    } catch (const InputError &error) {
        text = "rank " + std::to_string(place.rank) + ": " + error.what();
    }
    int own = text.empty() ? place.size : place.rank, lowest;
    MPI_Allreduce(&own, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (lowest < place.size)
        throw UsageError(text, lowest);
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
    if (blocks < place.stages)
        throw InputError("too many stages: " + std::to_string(place.stages) + " for " +
                         std::to_string(blocks) + " blocks. Use --stages with fewer.");
    std::vector<int> sizes = options.split;
    if (sizes.empty())
        for (int stage = 0; stage < place.stages; stage++)
            sizes.push_back(blocks / place.stages + (stage < blocks % place.stages));
    int sum = 0;
    for (int size : sizes)
        sum += size;
    if (static_cast<int>(sizes.size()) != place.stages || sum != blocks)
        throw InputError("split does not fit: " + std::to_string(place.stages) + " stages for " +
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
        int height, width;
        vigmpi_image_size(model, &height, &width);
        auto rows = static_cast<std::size_t>(height), columns = static_cast<std::size_t>(width);
        const auto &shape = array_.shape();
        std::vector<std::size_t> image(shape.begin() + !shape.empty(), shape.end());
        std::vector<std::size_t> needed = {3, rows, columns};
        if (array_.is_bytes())
            needed = {rows, columns, 3};
        if (shape.empty() || image != needed)
            throw InputError("images do not fit: " + options.images + " holds images of " + by(image) +
                             " " + (array_.is_bytes() ? "bytes" : "floats") + ", the model needs " +
                             by(needed) + ". Use images of this size.");
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
    static std::string by(const std::vector<std::size_t> &sides)
    {
        std::string text;
        for (std::size_t side : sides)
            text += (text.empty() ? "" : "x") + std::to_string(side);
        return text;
    }

    NpyReader array_;
    const vigmpi_model *model_;
    std::size_t values_, batch_size_, next_, step_;
};

// The number of images that a replica processes.
std::size_t share_of(int replica, const Options &options, const Place &place, std::size_t num_images)
{
    auto batch = static_cast<std::size_t>(options.batch_size), count = std::size_t{0};
    auto step = batch * static_cast<std::size_t>(place.replicas);
    for (std::size_t start = static_cast<std::size_t>(replica) * batch; start < num_images; start += step)
        count += std::min(batch, num_images - start);
    return count;
}

// Run all batches of this rank's replica through its stage, and return the logits of a last stage.
std::vector<float> run_stage(const Options &options, const Place &place, vigmpi_model *model, Source *source,
                             std::size_t num_images)
{
    auto inputs = static_cast<std::size_t>(vigmpi_input_values(model));
    auto outputs = static_cast<std::size_t>(vigmpi_output_values(model));
    std::vector<float> own(source ? static_cast<std::size_t>(options.batch_size) * inputs : 0), results;
    if (place.is_last())
        results.reserve(share_of(place.replica, options, place, num_images) * outputs);
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
        std::size_t count = share_of(r, options, place, num_images) * classes;
        std::size_t first = static_cast<std::size_t>(r) * batch;
        int rank = r * place.stages + place.stages - 1;
        const float *next = own.data();
        if (rank != 0) {
            replica.resize(count);
            for (std::size_t start = 0; start < count; start += RESULT_CHUNK)
                MPI_Recv(replica.data() + start, static_cast<int>(std::min<std::size_t>(RESULT_CHUNK, count - start)),
                         MPI_FLOAT, rank, RESULT_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            next = replica.data();
        }
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
    if (std::fflush(stdout) || std::ferror(stdout))
        throw std::runtime_error("cannot write to standard output: the table. Use another file or reader.");
}

void run(const Options &options, const Place &place)
{
    Model model;
    std::unique_ptr<Source> source;
    unsigned long long num_images = 0, num_classes = 0;
    together(place, [&] {
        model = open_stage(options, place);
        if (place.is_first())
            source = std::make_unique<Source>(options, place, model.get());
        if (place.rank == 0 && !options.output.empty())
            check_writable(options.output);
        if (static_cast<long long>(vigmpi_input_values(model.get())) * options.batch_size > INT_MAX)
            throw InputError("batch too large: --batch-size " + std::to_string(options.batch_size) +
                             ". Use a smaller one, since a message holds at most 2^31 values.");
    });
    num_classes = static_cast<unsigned long long>(vigmpi_output_values(model.get()));
    num_images = source ? source->num_images() : 0;
    MPI_Bcast(&num_images, 1, MPI_UNSIGNED_LONG_LONG, 0, MPI_COMM_WORLD);
    MPI_Bcast(&num_classes, 1, MPI_UNSIGNED_LONG_LONG, place.stages - 1, MPI_COMM_WORLD);
    together(place, [&] {
        if (source && source->num_images() != num_images)
            throw InputError("images differ between ranks: " + options.images + ". Use the same file on all hosts.");
    });
    std::vector<float> zeros(static_cast<std::size_t>(vigmpi_input_values(model.get())));
    std::vector<float> ignored(static_cast<std::size_t>(vigmpi_output_values(model.get())));
    check(vigmpi_run(model.get(), zeros.data(), 1, ignored.data())); // touches all memory
    MPI_Barrier(MPI_COMM_WORLD);
    double begun = MPI_Wtime();
    std::vector<float> results = run_stage(options, place, model.get(), source.get(), num_images);
    double own_s = MPI_Wtime() - begun, longest_s = 0;
    MPI_Reduce(&own_s, &longest_s, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (place.is_last() && place.rank > 0)
        send_results(results);
    if (place.rank > 0)
        return;
    std::vector<float> logits = collect(options, place, num_images, num_classes, results);
    if (options.output.empty())
        print_table(model.get(), logits, num_classes);
    else
        write_npy(options.output, logits, num_classes);
    std::fprintf(stderr, "%llu images in %.3f s: %.1f images/s on %d stages x %d replicas\n", num_images, longest_s,
                 static_cast<double>(num_images) / longest_s, place.stages, place.replicas);
}

// Print a message of one line, whatever the names in it are.
void print_error(std::string text)
{
    for (char &c : text)
        if (static_cast<unsigned char>(c) < ' ')
            c = ' ';
    std::fprintf(stderr, "vigmpi_infer: error: %s\n", text.c_str());
}

bool asks_for_help(int argc, char **argv)
{
    return std::any_of(argv + 1, argv + argc, [](const char *argument) {
        return !std::strcmp(argument, "--help") || !std::strcmp(argument, "-h");
    });
}

} // namespace

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int rank, status = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    try {
        if (asks_for_help(argc, argv)) {
            if (rank == 0)
                std::fputs(USAGE, stdout);
        } else {
            Options options = parse(argc, argv);
            run(options, place_of_this_rank(options));
        }
    } catch (const UsageError &error) {
        if (rank == error.speaker)
            print_error(error.what());
        status = 2;
    } catch (const std::bad_alloc &) {
        print_error("rank " + std::to_string(rank) + ": not enough memory for the images. Use a smaller --batch-size.");
        MPI_Abort(MPI_COMM_WORLD, 1);
    } catch (const std::exception &error) {
        print_error("rank " + std::to_string(rank) + ": " + error.what());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Finalize();
    return status;
}
