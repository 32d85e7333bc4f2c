/* The study's model, after the exact collapse of its linear layers (vigmpi/models/study).

   A half-block adds v^T gelu(a f + b) + c to the three features of a node. For the Grapher, f is
   the sum of the features over the neighbours, the features themselves and the number of
   neighbours; for the feed-forward network, the features alone. An image runs through all layers
   before the next one, so that its planes stay in the first-level cache. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "gelu.h"
#include "model.h"

enum {
    CHANNELS = VIGMPI_CHANNELS,
    WIDTH = 2 * CHANNELS + 1, /* features of a Grapher */
    NODES = 256,              /* processed at a time */
    UNITS = 4,                /* hidden units processed at a time; 8 divides their number */
    ALIGNMENT = 64
};

struct half_block {
    int features, hidden;
    const float *a, *b, *v, *c; /* [hidden, features], [hidden], [hidden, CHANNELS], [CHANNELS] */
};

struct head {
    int hidden, classes;
    float divisor;
    const float *a, *b, *v, *c; /* [hidden, CHANNELS], [hidden], [classes, hidden], [classes] */
};

struct layer {
    int is_head;
    struct half_block halves[2];
    struct head head;
    unsigned char *content; /* holds the arrays */
};

struct vigmpi_layers {
    int height, width, count; /* layers that are open */
    float *planes; /* the image's features, their sums along rows, the output and the degrees */
    struct layer layers[];
};

const char VIGMPI_FORM[] = "c";

/* y[o] += sum over hidden units of v gelu(a x + b), for a block of nodes. */
static inline __attribute__((always_inline)) void
add_hidden_layer(const int features, const struct half_block *half,
                 float x[restrict WIDTH][NODES], float y[restrict CHANNELS][NODES])
{
    for (int j = 0; j < half->hidden; j += UNITS) {
        const float *a = half->a + j * features, *b = half->b + j, *v = half->v + j * CHANNELS;
#pragma omp simd
        for (int i = 0; i < NODES; i++) {
            float h[UNITS];
#pragma GCC unroll 8
            for (int u = 0; u < UNITS; u++) {
                float z = b[u];
#pragma GCC unroll 8
                for (int k = 0; k < features; k++)
                    z += a[u * features + k] * x[k][i];
                h[u] = vigmpi_scaled_gelu(z);
            }
#pragma GCC unroll 8
            for (int o = 0; o < CHANNELS; o++) {
                float sum = v[o] * h[0];
#pragma GCC unroll 8
                for (int u = 1; u < UNITS; u++)
                    sum += v[u * CHANNELS + o] * h[u];
                y[o][i] += sum;
            }
        }
    }
}

/* Sum each pixel with its neighbours in the row; `sums` has a row of zeros before and after. */
static void sum_rows(const float *restrict x, int height, int width, float *restrict sums)
{
    for (int row = 0; row < height; row++) {
        const float *in = x + row * width;
        float *out = sums + (row + 1) * width;
        if (width == 1) {
            out[0] = in[0];
            continue;
        }
        out[0] = in[0] + in[1];
        for (int i = 1; i < width - 1; i++)
            out[i] = in[i - 1] + in[i] + in[i + 1];
        out[width - 1] = in[width - 2] + in[width - 1];
    }
}

static void run_half(const struct vigmpi_layers *layers, const struct half_block *half,
                     float *x, float *sums, float *out, const float *degrees)
{
    int width = layers->width, num_nodes = layers->height * width, is_grapher = half->features == WIDTH;
    size_t stride = (size_t)(layers->height + 2) * (size_t)width;
    for (int c = 0; is_grapher && c < CHANNELS; c++)
        sum_rows(x + c * num_nodes, layers->height, width, sums + c * stride);
    for (int start = 0; start < num_nodes; start += NODES) {
        float f[WIDTH][NODES] __attribute__((aligned(ALIGNMENT)));
        float y[CHANNELS][NODES] __attribute__((aligned(ALIGNMENT)));
        int size = num_nodes - start < NODES ? num_nodes - start : NODES;
        if (size < NODES)
            memset(f, 0, sizeof f);
        for (int c = 0; c < CHANNELS; c++) {
            const float *own = x + c * num_nodes + start, *above = sums + c * stride + start;
            if (is_grapher) {
                for (int i = 0; i < size; i++)
                    f[c][i] = above[i] + above[i + width] + above[i + 2 * width] - own[i];
                memcpy(f[CHANNELS + c], own, (size_t)size * sizeof(float));
            } else {
                memcpy(f[c], own, (size_t)size * sizeof(float));
            }
            for (int i = 0; i < NODES; i++)
                y[c][i] = half->c[c];
        }
        if (is_grapher) {
            memcpy(f[2 * CHANNELS], degrees + start, (size_t)size * sizeof(float));
            add_hidden_layer(WIDTH, half, f, y);
        } else {
            add_hidden_layer(CHANNELS, half, f, y);
        }
        for (int c = 0; c < CHANNELS; c++)
            memcpy(out + c * num_nodes + start, y[c], (size_t)size * sizeof(float));
    }
    for (int i = 0; i < CHANNELS * num_nodes; i++)
        x[i] += out[i];
}

static void run_head(const struct head *head, const float *x, int num_nodes, float *logits)
{
    float pooled[CHANNELS];
    for (int c = 0; c < CHANNELS; c++) {
        double sum = 0;
        for (int i = 0; i < num_nodes; i++)
            sum += x[c * num_nodes + i];
        pooled[c] = (float)sum / head->divisor;
    }
    for (int k = 0; k < head->classes; k++)
        logits[k] = head->c[k];
    for (int j = 0; j < head->hidden; j++) {
        float z = head->b[j];
        for (int c = 0; c < CHANNELS; c++)
            z += head->a[j * CHANNELS + c] * pooled[c];
        float h = z * 0.5f * erfcf(z * -0.70710678f);
        for (int k = 0; k < head->classes; k++)
            logits[k] += head->v[k * head->hidden + j] * h;
    }
}

int vigmpi_layers_run(struct vigmpi_model *model, const void *input, int num_images, void *output)
{
    const struct vigmpi_layers *layers = model->layers;
    int num_nodes = layers->height * layers->width;
    size_t plane = (size_t)CHANNELS * (size_t)num_nodes;
    size_t padded = (size_t)CHANNELS * (size_t)(layers->height + 2) * (size_t)layers->width;
    float *x = layers->planes, *out = x + plane, *sums = out + plane, *degrees = sums + padded;
    float *values = output;
    for (int image = 0; image < num_images; image++) {
        memcpy(x, (const float *)input + (size_t)image * plane, plane * sizeof *x);
        for (int l = 0; l < layers->count; l++) {
            const struct layer *layer = &layers->layers[l];
            if (layer->is_head) {
                run_head(&layer->head, x, num_nodes, values);
                values += layer->head.classes;
                break;
            }
            run_half(layers, &layer->halves[0], x, sums, out, degrees);
            run_half(layers, &layer->halves[1], x, sums, out, degrees);
        }
        if (!layers->layers[layers->count - 1].is_head) {
            memcpy(values, x, plane * sizeof *x);
            values += plane;
        }
    }
    return VIGMPI_OK;
}

/* Numbers of a layer's file that are not taken yet. */
struct rest {
    const float *next;
    size_t left;
    int failed;
};

static const float *take(struct rest *rest, size_t count)
{
    const float *array = rest->next;
    if (rest->failed || count > rest->left) {
        rest->failed = 1;
        return NULL;
    }
    rest->next += count;
    rest->left -= count;
    return array;
}

static int is_size(double number)
{
    return number >= 1 && number <= 1 << 20 && number == (double)(int)number;
}

static int open_layer(vigmpi_model *model, int index, struct layer *layer)
{
    double hidden[VIGMPI_MAX_NUMBERS];
    int count, is_mean = 0;
    size_t size;
    char *path = NULL;
    int status = vigmpi_manifest_numbers(&model->manifest, index, "hidden", hidden, &count);
    if (!status)
        status = vigmpi_manifest_file(&model->manifest, index, "", &path, &layer->content, &size);
    free(path);
    if (!status && count == 1)
        status = vigmpi_manifest_whole(&model->manifest, index, "mean_of_nodes", &is_mean);
    if (status)
        return status;
    struct rest rest = {(const float *)layer->content, size / sizeof(float), size % sizeof(float) != 0};
    if (count < 1 || count > 2 || !is_size(hidden[0]) || (count == 2 && !is_size(hidden[1])))
        rest.failed = 1;
    layer->is_head = count == 1;
    if (layer->is_head && !rest.failed) {
        struct head *head = &layer->head;
        size_t h = (size_t)hidden[0], classes = (size_t)model->num_classes;
        head->hidden = (int)h;
        head->classes = model->num_classes;
        head->divisor = is_mean ? (float)(model->height * model->width) : 1.0f;
        head->a = take(&rest, h * CHANNELS);
        head->b = take(&rest, h);
        head->v = take(&rest, h * classes);
        head->c = take(&rest, classes);
    }
    for (int i = 0; !layer->is_head && i < 2 && !rest.failed; i++) {
        struct half_block *half = &layer->halves[i];
        size_t h = (size_t)hidden[i];
        half->features = i == 0 ? WIDTH : CHANNELS;
        half->hidden = (int)h;
        half->a = take(&rest, h * (size_t)half->features);
        half->b = take(&rest, h);
        half->v = take(&rest, h * CHANNELS);
        half->c = take(&rest, CHANNELS);
        rest.failed |= h % UNITS != 0;
    }
    if (rest.failed || rest.left)
        return vigmpi_fail(VIGMPI_INPUT, "weights do not fit: layer %d of %s. Run vigmpi export again.",
                           index, model->manifest.folder);
    return VIGMPI_OK;
}

/* Number the neighbours of each pixel: the pixels of the 3x3 window that are in the image, but
   for the one in its middle. */
static void count_neighbours(int height, int width, float *degrees)
{
    for (int row = 0; row < height; row++)
        for (int column = 0; column < width; column++) {
            int rows = 1 + (row > 0) + (row < height - 1);
            int columns = 1 + (column > 0) + (column < width - 1);
            degrees[row * width + column] = (float)(rows * columns - 1);
        }
}

static int allocate_planes(struct vigmpi_layers *layers)
{
    size_t nodes = (size_t)layers->height * (size_t)layers->width;
    size_t padded = (size_t)(layers->height + 2) * (size_t)layers->width;
    size_t size = ((2 * CHANNELS + 1) * nodes + CHANNELS * padded) * sizeof(float);
    size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    layers->planes = aligned_alloc(ALIGNMENT, size);
    if (!layers->planes)
        return vigmpi_fail(VIGMPI_FAILURE, "not enough memory: %zu bytes. Close a model.", size);
    memset(layers->planes, 0, size);
    count_neighbours(layers->height, layers->width, layers->planes + 2 * CHANNELS * nodes + CHANNELS * padded);
    return VIGMPI_OK;
}

int vigmpi_layers_open(struct vigmpi_model *model, int first, int num_layers)
{
    if (model->value_bytes != sizeof(float))
        return vigmpi_fail(VIGMPI_INPUT, "damaged manifest: %s/manifest.toml (dtype). Run vigmpi export "
                           "again.", model->manifest.folder);
    struct vigmpi_layers *layers =
        calloc(1, sizeof *layers + (size_t)num_layers * sizeof *layers->layers);
    if (!layers)
        return vigmpi_fail(VIGMPI_FAILURE, "not enough memory: %d layers. Close a model.", num_layers);
    model->layers = layers;
    layers->height = model->height;
    layers->width = model->width;
    for (; layers->count < num_layers; layers->count++) {
        struct layer *layer = &layers->layers[layers->count];
        int status = open_layer(model, first + layers->count, layer);
        if (!status && layer->is_head && first + layers->count < model->manifest.num_layers - 1)
            status = vigmpi_fail(VIGMPI_INPUT, "damaged manifest: %s/manifest.toml (layers behind the "
                                 "head). Run vigmpi export again.", model->manifest.folder);
        if (status) {
            free(layer->content);
            return status;
        }
    }
    const struct layer *last = &layers->layers[num_layers - 1];
    model->input_values = (size_t)CHANNELS * (size_t)model->height * (size_t)model->width;
    model->max_images = INT_MAX;
    model->output_values = last->is_head ? (size_t)last->head.classes : model->input_values;
    return allocate_planes(layers);
}

void vigmpi_layers_close(struct vigmpi_layers *layers)
{
    if (!layers)
        return;
    for (int l = 0; l < layers->count; l++)
        free(layers->layers[l].content);
    free(layers->planes);
    free(layers);
}
