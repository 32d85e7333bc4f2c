// Layers as packages of AOTInductor: one for batches, and one for a single image.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

extern "C" {
#include "error.h"
#include "model.h"
}

namespace {

using Package = torch::inductor::AOTIModelPackageLoader;
using Shape = std::vector<std::int64_t>;

struct Layer {
    std::unique_ptr<Package> batch, single;
};

// An error of which vigmpi_fail has taken the message.
struct Failure {
    int status;
};

void check(int status)
{
    if (status)
        throw Failure{status};
}

struct Free {
    void operator()(void *memory) const { std::free(memory); }
};

std::string first_line(const std::exception &error)
{
    std::string text = error.what();
    return text.substr(0, text.find('\n'));
}

std::unique_ptr<Package> load(vigmpi_manifest &manifest, int layer, const char *prefix)
{
    char *path;
    unsigned char *content;
    std::size_t size;
    int status = vigmpi_manifest_file(&manifest, layer, prefix, &path, &content, &size);
    std::unique_ptr<char, Free> owned_path(path);
    std::free(content);
    check(status);
    try {
        return std::make_unique<Package>(path);
    } catch (const std::exception &error) {
        throw Failure{vigmpi_fail(VIGMPI_FAILURE, "cannot load package: %s (%s). Free space in the temporary "
                                  "folder, or run vigmpi export again.", path, first_line(error).c_str())};
    }
}

// The shape of a batch of 0 images, for `input` or `output` of a layer.
Shape shape_of(const vigmpi_manifest &manifest, int layer, const char *key)
{
    double sides[VIGMPI_MAX_NUMBERS], product = 1;
    int count;
    check(vigmpi_manifest_numbers(&manifest, layer, key, sides, &count));
    Shape shape(1);
    for (int i = 0; i < count; i++) {
        product *= sides[i];
        if (!(sides[i] >= 1 && product <= INT32_MAX))
            throw Failure{vigmpi_fail(VIGMPI_INPUT, "damaged manifest: %s/manifest.toml (%s of layer %d). Run "
                                      "vigmpi export again.", manifest.folder, key, layer)};
        shape.push_back(static_cast<std::int64_t>(sides[i]));
    }
    return shape;
}

std::size_t values_of(const Shape &shape)
{
    std::size_t product = 1;
    for (std::size_t i = 1; i < shape.size(); i++)
        product *= static_cast<std::size_t>(shape[i]);
    return product;
}

} // namespace

struct vigmpi_layers {
    std::vector<Layer> layers;
    Shape shape; // of the first layer's input
};

const char VIGMPI_FORM[] = "packages";

int vigmpi_layers_open(vigmpi_model *model, int first, int num_layers)
{
    try {
        auto layers = std::make_unique<vigmpi_layers>();
        vigmpi_manifest &manifest = model->manifest;
        int threads;
        check(vigmpi_manifest_whole(&manifest, -1, "threads", &threads));
        check(vigmpi_manifest_whole(&manifest, -1, "max_batch_size", &model->max_images));
        Shape shape = layers->shape = shape_of(manifest, first, "input");
        for (int l = first; l < first + num_layers; l++) {
            if (shape_of(manifest, l, "input") != shape)
                throw Failure{vigmpi_fail(VIGMPI_INPUT, "damaged manifest: %s/manifest.toml (input of layer %d). Run "
                                          "vigmpi export again.", manifest.folder, l)};
            shape = shape_of(manifest, l, "output");
        }
        model->input_values = values_of(layers->shape);
        model->output_values = values_of(shape);
        at::set_num_threads(threads > 0 ? threads : 1);
        for (int l = first; l < first + num_layers; l++)
            layers->layers.push_back({load(manifest, l, ""), load(manifest, l, "single_")});
        model->layers = layers.release();
        return VIGMPI_OK;
    } catch (const Failure &failure) {
        return failure.status;
    } catch (const std::exception &error) {
        return vigmpi_fail(VIGMPI_FAILURE, "cannot open layers: %s. Close a model.", first_line(error).c_str());
    }
}

int vigmpi_layers_run(vigmpi_model *model, const void *input, int num_images, void *output)
{
    vigmpi_layers &layers = *model->layers;
    try {
        auto type = model->value_bytes == sizeof(double) ? at::kDouble : at::kFloat;
        layers.shape[0] = num_images;
        // The layers do not write to it.
        std::vector<at::Tensor> values = {at::from_blob(const_cast<void *>(input), layers.shape, type)};
        for (Layer &layer : layers.layers)
            values = (num_images == 1 ? layer.single : layer.batch)->run(values);
        at::Tensor result = values.at(0).contiguous();
        std::size_t size = static_cast<std::size_t>(num_images) * model->output_values;
        if (result.scalar_type() != type || static_cast<std::size_t>(result.numel()) != size)
            return vigmpi_fail(VIGMPI_INPUT, "packages do not fit the manifest: %s. Run vigmpi export again.",
                               model->manifest.folder);
        std::memcpy(output, result.const_data_ptr(), size * static_cast<std::size_t>(model->value_bytes));
        return VIGMPI_OK;
    } catch (const std::exception &error) {
        return vigmpi_fail(VIGMPI_FAILURE, "the computation failed: %s.", first_line(error).c_str());
    }
}

void vigmpi_layers_close(vigmpi_layers *layers) { delete layers; }
