// Pipelined inference with an export: S stages x R replicas of the pipeline, over MPI.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <mpi.h>

#include "clock.hpp"
#include "links.hpp"
#include "npy.hpp"
#include "options.hpp"
#include "requests.hpp"

extern "C" {
#include "manifest.h"
#include "vigmpi_infer.h"
}

namespace {

constexpr std::size_t RESULT_CHUNK = 1 << 22;

// Where a rank is: rank = replica * stages + stage.
struct Place {
    int rank, size, stage, replica, stages, replicas;

    bool is_first() const { return stage == 0; }
    bool is_last() const { return stage == stages - 1; }
    // The number of requests of a replica: those of number replica, replica + replicas, ...
    std::size_t share(std::size_t requests, int of_replica) const
    {
        auto r = static_cast<std::size_t>(of_replica), n = static_cast<std::size_t>(replicas);
        return requests / n + (r < requests % n);
    }
};

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

std::size_t value_bytes(const Model &model) { return static_cast<std::size_t>(vigmpi_value_bytes(model.get())); }

std::size_t input_bytes(const Model &model)
{
    return static_cast<std::size_t>(vigmpi_input_values(model.get())) * value_bytes(model);
}

std::size_t output_bytes(const Model &model)
{
    return static_cast<std::size_t>(vigmpi_output_values(model.get())) * value_bytes(model);
}

// The images of the requests, in turn.
class Images {
public:
    Images(const Options &options, const Model &model)
        : array_(options.images), model_(model.get()), image_bytes_(input_bytes(model))
    {
        int height, width;
        vigmpi_image_size(model_, &height, &width);
        auto rows = static_cast<std::size_t>(height), columns = static_cast<std::size_t>(width);
        const auto &shape = array_.shape();
        std::vector<std::size_t> image(shape.begin() + !shape.empty(), shape.end());
        std::vector<std::size_t> needed = {3, rows, columns};
        if (is_pixels())
            needed = {rows, columns, 3};
        if (shape.empty() || image != needed)
            throw InputError("images do not fit: " + options.images + " holds images of " + by(image) + " " +
                             (is_pixels() ? "pixels" : "values") + ", the model needs " + by(needed) +
                             ". Use images of this size.");
        if (!is_pixels() && array_.value_bytes() != value_bytes(model))
            throw InputError("images do not fit: " + options.images + " holds values of " +
                             std::to_string(array_.value_bytes()) + " bytes, the model needs " +
                             std::to_string(value_bytes(model)) + ". Use another type, or uint8 pixels.");
    }

    std::size_t count() const { return array_.shape()[0]; }

    // Write the normalised values of a request's image.
    void load(std::size_t request, unsigned char *values) const
    {
        std::size_t size = is_pixels() ? image_bytes_ / static_cast<std::size_t>(vigmpi_value_bytes(model_)) : image_bytes_;
        const unsigned char *image = array_.values() + request % count() * size;
        if (is_pixels())
            check(vigmpi_normalize(model_, image, 1, values));
        else
            std::memcpy(values, image, size);
    }

private:
    bool is_pixels() const { return array_.value_bytes() == 1; }

    static std::string by(const std::vector<std::size_t> &sides)
    {
        std::string text;
        for (std::size_t side : sides)
            text += (text.empty() ? "" : "x") + std::to_string(side);
        return text;
    }

    NpyReader array_;
    const vigmpi_model *model_;
    std::size_t image_bytes_;
};

std::vector<double> read_arrivals(const std::string &path)
{
    NpyReader array(path);
    if (array.value_bytes() != sizeof(double) || array.shape().size() != 1)
        throw InputError("arrivals do not fit: " + path + ". Use float64 seconds [requests].");
    std::vector<double> times(array.shape()[0]);
    std::memcpy(times.data(), array.values(), times.size() * sizeof(double));
    double before = 0;
    for (double time : times) {
        if (!(time >= before && time < 1e9))
            throw InputError("arrivals do not fit: " + path + " (one at " + std::to_string(time) +
                             "). Use seconds from the start in ascending order.");
        before = time;
    }
    return times;
}

// All requests of the run.
struct Load {
    std::vector<double> arrivals; // for --arrivals
    unsigned long long requests = 0;
};

// Read the load on rank 0, and send it to all ranks. Collective.
Load make_load(const Options &options, const Place &place, const Images *images)
{
    Load load;
    together(place, [&] {
        if (place.rank > 0)
            return;
        if (!options.arrivals.empty())
            load.arrivals = read_arrivals(options.arrivals);
        load.requests = options.arrivals.empty() ? images->count() : load.arrivals.size();
        if (options.requests)
            load.requests = static_cast<unsigned long long>(options.requests);
        if (load.requests && !images->count())
            throw InputError("no images: " + options.images + " is empty. Use at least one.");
        if (load.arrivals.size() > INT_MAX)
            throw InputError("arrivals do not fit: " + options.arrivals + " holds more than 2^31. Use fewer.");
    });
    unsigned long long sizes[] = {load.requests, load.arrivals.size()};
    MPI_Bcast(sizes, 2, MPI_UNSIGNED_LONG_LONG, 0, MPI_COMM_WORLD);
    load.requests = sizes[0];
    load.arrivals.resize(sizes[1]);
    MPI_Bcast(load.arrivals.data(), static_cast<int>(sizes[1]), MPI_DOUBLE, 0, MPI_COMM_WORLD);
    return load;
}

Requests requests_of(const Load &load, const Options &options, const Place &place)
{
    std::size_t own = place.share(load.requests, place.replica);
    auto first = static_cast<std::size_t>(place.replica), step = static_cast<std::size_t>(place.replicas);
    if (options.in_flight)
        return Requests(own, static_cast<std::size_t>(options.in_flight), options.batch_size, options.batch_wait_s);
    std::vector<double> arrivals(own);
    for (std::size_t i = 0; i < own && !load.arrivals.empty(); i++)
        arrivals[i] = load.arrivals[first + i * step];
    return Requests(std::move(arrivals), options.batch_size, options.batch_wait_s);
}

// What a stage has done with a batch.
struct Span {
    double begin, end;
    int requests;
};

// What a rank keeps for the end.
struct Results {
    std::vector<Span> spans;
    std::vector<unsigned char> logits; // of a last stage
    std::vector<double> arrivals;      // of a first stage
};

// The input of a stage: images on the first one, otherwise messages.
class Input {
public:
    Input(const Options &options, const Place &place, const Model &model, const Images *images, const Load &load)
        : images_(images), first_(static_cast<std::size_t>(place.replica)), step_(static_cast<std::size_t>(place.replicas))
    {
        std::size_t size = input_bytes(model);
        if (!place.is_first()) {
            receiver_ = std::make_unique<Receiver>(place.rank - 1, options.batch_size, size);
            return;
        }
        requests_ = std::make_unique<Requests>(requests_of(load, options, place));
        values_.resize(static_cast<std::size_t>(options.batch_size) * size);
        image_bytes_ = size;
        if (!place.is_last())
            answers_ = std::make_unique<Answers>(place.rank + place.stages - 1);
    }

    // Wait for a batch, and return its number of images, or 0 at the end. `begin` is when it is there.
    int next(const Clock &clock, const void *&values, double &begin)
    {
        int number;
        if (receiver_) {
            values = receiver_->receive(number);
            begin = clock.now();
            return number;
        }
        number = requests_->next(clock, answers_.get());
        begin = clock.now();
        for (int i = 0; i < number; i++, taken_++)
            images_->load(first_ + taken_ * step_, values_.data() + static_cast<std::size_t>(i) * image_bytes_);
        values = values_.data();
        return number;
    }

    void release()
    {
        if (receiver_)
            receiver_->release();
    }

    // Take the answers of a stage that is the last one, too.
    void answered(int number, double time)
    {
        if (requests_)
            requests_->answered(number, time);
    }

    // Return the requests' arrivals, after the end.
    std::vector<double> finish()
    {
        if (answers_)
            answers_->take_all(taken_);
        return requests_ ? requests_->arrivals() : std::vector<double>();
    }

private:
    const Images *images_;
    std::size_t first_, step_, taken_ = 0, image_bytes_ = 0;
    std::vector<unsigned char> values_;
    std::unique_ptr<Receiver> receiver_;
    std::unique_ptr<Requests> requests_;
    std::unique_ptr<Answers> answers_;
};

// Run all batches of this rank's replica through its stage.
Results run_stage(const Place &place, const Model &model, Input &input, Sender *sender, const Clock &clock,
                  bool keeps_logits)
{
    Results results;
    std::vector<unsigned char> logits;
    std::unique_ptr<AnswerSender> answers;
    if (place.is_last() && !place.is_first())
        answers = std::make_unique<AnswerSender>(place.rank - place.stages + 1);
    for (;;) {
        const void *values;
        Span span;
        void *output = sender ? sender->buffer() : nullptr; // waits while too many are under way
        int number = input.next(clock, values, span.begin);
        if (number == 0)
            break;
        if (!sender) {
            logits.resize(static_cast<std::size_t>(number) * output_bytes(model));
            output = logits.data();
        }
        check(vigmpi_run(model.get(), values, number, output));
        span.end = clock.now();
        span.requests = number;
        results.spans.push_back(span);
        input.release();
        if (sender)
            sender->send(number);
        else if (keeps_logits)
            results.logits.insert(results.logits.end(), logits.begin(), logits.end());
        if (answers)
            answers->send(number, span.end);
        else if (!sender)
            input.answered(number, span.end);
    }
    if (sender) {
        sender->send(0);
        sender->finish();
    }
    if (answers)
        answers->finish();
    results.arrivals = input.finish();
    return results;
}

// Send bytes to rank 0, or receive them there, in several messages.
void transfer(void *bytes, std::size_t size, int sender, int rank)
{
    auto *next = static_cast<unsigned char *>(bytes);
    for (std::size_t left = size; left && sender != 0;) {
        std::size_t part = std::min(left, RESULT_CHUNK);
        if (rank == 0)
            MPI_Recv(next, static_cast<int>(part), MPI_BYTE, sender, RESULT_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else
            MPI_Send(next, static_cast<int>(part), MPI_BYTE, 0, RESULT_TAG, MPI_COMM_WORLD);
        next += part;
        left -= part;
    }
}

// Return the sender's vector on rank 0.
template <typename T> std::vector<T> collect_from(int sender, const Place &place, std::vector<T> own)
{
    unsigned long long count = own.size();
    if (sender != 0)
        transfer(&count, sizeof count, sender, place.rank);
    if (place.rank == 0 && sender != 0)
        own.resize(count);
    transfer(own.data(), own.size() * sizeof(T), sender, place.rank);
    return own;
}

// Put the rows of a replica's requests where they belong.
void place_rows(const Place &place, int replica, const unsigned char *rows, std::size_t row_bytes,
                std::vector<unsigned char> &all)
{
    auto step = static_cast<std::size_t>(place.replicas), request = static_cast<std::size_t>(replica);
    for (; request * row_bytes < all.size(); request += step, rows += row_bytes)
        std::memcpy(all.data() + request * row_bytes, rows, row_bytes);
}

// Return the logits of all requests on rank 0. Collective.
std::vector<unsigned char> collect_logits(const Place &place, std::size_t requests, std::size_t row_bytes,
                                          const Results &own)
{
    std::vector<unsigned char> all(place.rank == 0 ? requests * row_bytes : 0);
    for (int replica = 0; replica < place.replicas; replica++) {
        int sender = replica * place.stages + place.stages - 1;
        if (place.rank != sender && place.rank != 0)
            continue;
        std::vector<unsigned char> rows = collect_from(sender, place, place.rank == sender ? own.logits : std::vector<unsigned char>());
        if (place.rank == 0)
            place_rows(place, replica, rows.data(), row_bytes, all);
    }
    return all;
}

// Return the arrivals and spans of all requests on rank 0, doubles [requests, 1 + 2 S]. Collective.
std::vector<unsigned char> collect_times(const Place &place, std::size_t requests, const Results &own)
{
    auto columns = static_cast<std::size_t>(1 + 2 * place.stages);
    std::vector<unsigned char> all(place.rank == 0 ? requests * columns * sizeof(double) : 0);
    for (int replica = 0; replica < place.replicas; replica++) {
        std::vector<double> rows(place.rank == 0 ? place.share(requests, replica) * columns : 0);
        for (int stage = 0; stage < place.stages; stage++) {
            int sender = replica * place.stages + stage;
            if (place.rank != sender && place.rank != 0)
                continue;
            bool is_own = place.rank == sender;
            auto spans = collect_from(sender, place, is_own ? own.spans : std::vector<Span>());
            if (stage == 0) {
                auto arrivals = collect_from(sender, place, is_own ? own.arrivals : std::vector<double>());
                for (std::size_t i = 0; place.rank == 0 && i < arrivals.size(); i++)
                    rows[i * columns] = arrivals[i];
            }
            std::size_t request = 0, column = static_cast<std::size_t>(1 + 2 * stage);
            for (const Span &span : spans)
                for (int i = 0; place.rank == 0 && i < span.requests; i++, request++) {
                    rows[request * columns + column] = span.begin;
                    rows[request * columns + column + 1] = span.end;
                }
        }
        if (place.rank == 0)
            place_rows(place, replica, reinterpret_cast<unsigned char *>(rows.data()), columns * sizeof(double), all);
    }
    return all;
}

double value_at(const std::vector<unsigned char> &values, std::size_t index, std::size_t bytes)
{
    double wide;
    float narrow;
    if (bytes == sizeof wide) {
        std::memcpy(&wide, values.data() + index * bytes, bytes);
        return wide;
    }
    std::memcpy(&narrow, values.data() + index * bytes, bytes);
    return narrow;
}

void print_table(const Model &model, const std::vector<unsigned char> &logits, std::size_t classes)
{
    std::size_t bytes = value_bytes(model), rows = logits.size() / (classes * bytes);
    for (std::size_t image = 0; image < rows; image++) {
        std::vector<double> row(classes);
        for (std::size_t k = 0; k < classes; k++)
            row[k] = value_at(logits, image * classes + k, bytes);
        auto best = std::max_element(row.begin(), row.end());
        double sum = 0;
        for (double logit : row)
            sum += std::exp(logit - *best);
        const char *name = vigmpi_class_name(model.get(), static_cast<int>(best - row.begin()));
        std::printf("%zu  %s  %.1f%%\n", image, name ? name : "?", 100 / sum);
    }
    if (std::fflush(stdout) || std::ferror(stdout))
        throw std::runtime_error("cannot write to standard output: the table. Use another file or reader.");
}

// Run a whole batch and a single image, so that the first of the requests are not slower than others.
void warm_up(const Options &options, const Model &model)
{
    auto images = static_cast<std::size_t>(options.batch_size);
    std::vector<unsigned char> zeros(images * input_bytes(model)), ignored(images * output_bytes(model));
    for (int number : {options.batch_size, 1, options.batch_size, 1})
        check(vigmpi_run(model.get(), zeros.data(), number, ignored.data()));
}

// Wait for all ranks without occupying a core.
void wait_for_all()
{
    MPI_Request request;
    MPI_Ibarrier(MPI_COMM_WORLD, &request);
    wait_for(request);
}

void check_batch(const Options &options, const Model &model)
{
    auto images = static_cast<std::size_t>(options.batch_size);
    if (std::max(input_bytes(model), output_bytes(model)) * images > INT_MAX)
        throw InputError("batch too large: --batch-size " + std::to_string(options.batch_size) +
                         ". Use a smaller one, since a message holds at most 2^31 bytes.");
}

void run(Options options, const Place &place)
{
    Model model;
    std::unique_ptr<Images> images;
    together(place, [&] {
        model = open_stage(options, place);
        if (place.is_first())
            images = std::make_unique<Images>(options, model);
        for (const std::string &path : {options.output, options.times})
            if (place.rank == 0 && !path.empty())
                check_writable(path);
        if (!options.batch_size)
            options.batch_size = std::min(DEFAULT_BATCH, vigmpi_max_images(model.get()));
        check_batch(options, model);
        warm_up(options, model);
    });
    Load load = make_load(options, place, images.get());
    unsigned long long num_images = images ? images->count() : 0, row_bytes = output_bytes(model);
    MPI_Bcast(&num_images, 1, MPI_UNSIGNED_LONG_LONG, 0, MPI_COMM_WORLD);
    MPI_Bcast(&row_bytes, 1, MPI_UNSIGNED_LONG_LONG, place.stages - 1, MPI_COMM_WORLD);
    together(place, [&] {
        if (images && images->count() != num_images)
            throw InputError("images differ between ranks: " + options.images + ". Use the same file on all hosts.");
    });
    bool needs_table = options.output.empty() && options.times.empty();
    bool needs_logits = needs_table || !options.output.empty();
    Input input(options, place, model, images.get(), load);
    std::unique_ptr<Sender> sender;
    if (!place.is_last())
        sender = std::make_unique<Sender>(place.rank + 1, options.batch_size, output_bytes(model));
    Clock clock;
    Results results = run_stage(place, model, input, sender.get(), clock, needs_logits);
    double own_s = clock.now(), longest_s = 0;
    wait_for_all();
    MPI_Reduce(&own_s, &longest_s, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    std::vector<unsigned char> logits, times;
    if (needs_logits)
        logits = collect_logits(place, load.requests, row_bytes, results);
    if (!options.times.empty())
        times = collect_times(place, load.requests, results);
    if (place.rank > 0)
        return;
    std::size_t bytes = value_bytes(model), classes = row_bytes / bytes;
    if (needs_table)
        print_table(model, logits, classes);
    std::string problem;
    auto write = [&](const std::string &path, const std::vector<unsigned char> &values, std::size_t columns,
                     std::size_t size) {
        try {
            if (!path.empty())
                write_npy(path, values, columns, size);
        } catch (const std::runtime_error &error) {
            problem = error.what(); // the other file may be written
        }
    };
    write(options.output, logits, classes, bytes);
    write(options.times, times, static_cast<std::size_t>(1 + 2 * place.stages), sizeof(double));
    if (!problem.empty())
        throw std::runtime_error(problem);
    std::fprintf(stderr, "%llu images in %.3f s: %.1f images/s on %d stages x %d replicas\n", load.requests, longest_s,
                 static_cast<double>(load.requests) / longest_s, place.stages, place.replicas);
}

// Print a message of one line, whatever the names in it are.
void print_error(std::string text)
{
    for (char &c : text)
        if (static_cast<unsigned char>(c) < ' ')
            c = ' ';
    std::fprintf(stderr, "vigmpi_infer: error: %s\n", text.c_str());
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
