#include "options.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <system_error>

const char USAGE[] =
    "usage: mpiexec -n S*R vigmpi_infer EXPORT IMAGES.npy [options]\n"
    "\n"
    "Classify images with an export of vigmpi, on R replicas of a pipeline of S stages.\n"
    "IMAGES.npy holds uint8 pixels [images, height, width, 3], or values [images, 3, height, width]\n"
    "of the export's type that are normalised already. Without --output and --times, a table is\n"
    "printed: the number of each image, its most probable class, and that class's probability.\n"
    "\n"
    "  --stages S          number of stages (default: 1)\n"
    "  --split N,N         number of blocks on each stage (default: even)\n"
    "  --batch-size N      images that a stage processes at a time, at most (default: 16, or what\n"
    "                      the export takes)\n"
    "  --output FILE.npy   write the logits, [requests, classes]\n"
    "\n"
    "Load tests. A request is one image; the images are taken in turn. Requests go to the replicas\n"
    "in turn, and those that wait are grouped into batches.\n"
    "\n"
    "  --arrivals FILE.npy  times at which requests arrive, in seconds, ascending float64\n"
    "                       (default: one request for each image, all at once)\n"
    "  --in-flight K        a request arrives when another is answered, so that each replica has K\n"
    "  --requests N         number of requests for --in-flight (default: one for each image)\n"
    "  --batch-wait-ms X    time that a request waits for others in its batch (default: 0)\n"
    "  --times FILE.npy     write [requests, 1 + 2 S]: the arrival of each request, and the start\n"
    "                       and end of its batch on each stage, in seconds\n";

namespace {

constexpr long MAX_BATCH = 4096, MAX_REQUESTS = 100'000'000, MAX_RANKS = 1024;
constexpr double MAX_WAIT_MS = 60'000;

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
        numbers.push_back(whole_number(option, text.substr(start, end - start), MAX_RANKS));
        end += end != std::string::npos;
    }
    return numbers;
}

double milliseconds(const std::string &option, const std::string &text)
{
    char *end;
    double number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end || !(number >= 0 && number <= MAX_WAIT_MS))
        throw UsageError("invalid value: " + option + " " + text + ". Use milliseconds from 0 to 60000.");
    return number / 1000;
}

// Throw UsageError if an output, or its name while it is written, is another file.
void check_paths(const std::vector<std::string> &outputs, const std::vector<std::string> &inputs)
{
    namespace fs = std::filesystem;
    std::error_code ignored;
    std::set<fs::path> used;
    auto real = [&](const std::string &path) { return fs::weakly_canonical(fs::absolute(path, ignored), ignored); };
    for (const std::string &path : inputs)
        if (!path.empty())
            used.insert(real(path));
    for (const std::string &path : outputs)
        if (!path.empty() && (!used.insert(real(path)).second || !used.insert(real(path + ".part")).second))
            throw UsageError("two uses of one file: " + path + ". Use another path for the output.");
}

} // namespace

Options parse(int argc, char **argv)
{
    Options options;
    using Take = std::function<void(const std::string &, const std::string &)>;
    auto text_into = [](std::string &target) {
        return [&target](const std::string &, const std::string &text) { target = text; };
    };
    auto number_into = [](int &target, long maximum) {
        return [&target, maximum](const std::string &name, const std::string &text) {
            target = whole_number(name, text, maximum);
        };
    };
    const std::map<std::string, Take> known = {
        {"--output", text_into(options.output)},
        {"--times", text_into(options.times)},
        {"--arrivals", text_into(options.arrivals)},
        {"--stages", number_into(options.stages, MAX_RANKS)},
        {"--batch-size", number_into(options.batch_size, MAX_BATCH)},
        {"--requests", number_into(options.requests, MAX_REQUESTS)},
        {"--in-flight", number_into(options.in_flight, MAX_REQUESTS)},
        {"--split", [&](const auto &name, const auto &text) { options.split = whole_numbers(name, text); }},
        {"--batch-wait-ms",
         [&](const auto &name, const auto &text) { options.batch_wait_s = milliseconds(name, text); }},
    };
    std::vector<std::string> paths;
    for (int i = 1; i < argc; i++) {
        std::string name = argv[i];
        if (name.rfind("--", 0) != 0) {
            paths.push_back(name);
            continue;
        }
        auto option = known.find(name);
        if (option == known.end())
            throw UsageError("unknown option: " + name + ". See vigmpi_infer --help.");
        if (++i == argc)
            throw UsageError("value missing: " + name + ". See vigmpi_infer --help.");
        option->second(name, argv[i]);
    }
    if (paths.size() != 2)
        throw UsageError("an export and a file of images are needed: " + std::to_string(paths.size()) +
                         " paths were given. See vigmpi_infer --help.");
    if (!options.arrivals.empty() && options.in_flight)
        throw UsageError("two kinds of load: --arrivals and --in-flight. Use one of them.");
    check_paths({options.output, options.times}, {paths[1], options.arrivals});
    if (options.requests && !options.in_flight)
        throw UsageError("option without another: --requests without --in-flight. Use both or none.");
    options.folder = paths[0];
    options.images = paths[1];
    return options;
}

bool asks_for_help(int argc, char **argv)
{
    return std::any_of(argv + 1, argv + argc, [](const char *argument) {
        return !std::strcmp(argument, "--help") || !std::strcmp(argument, "-h");
    });
}
