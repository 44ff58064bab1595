/* The native kernels of binarize: networks of +1/-1 weights and activations on a CPU.
 *
 * Plain C, no dependency but the C library (and an OpenMP runtime of the process, see num_threads). No function
 * keeps state between calls except bz_set_isa; all may be called from several threads at once.
 *
 * Words. A bit is 1 for +1 and 0 for -1. 32 channels are one uint32_t, the lowest channel in the lowest bit; the
 * bits behind the last channel are 0.
 *
 * Bit plane (activations). [images][height + 2 border_h][width + 2 border_w][groups][words per group] words with
 * words per group = ceil(channels / groups / 32): the channels of each group of a grouped convolution start at a new
 * word. The border is zero bits. Behind the plane lie BZ_SLACK more words that kernels may read: allocate
 * bz_plane_words().
 *
 * Padding. A padded position counts 0, neither +1 nor -1. Kernels read zero bits there and correct the count by a
 * table per border class; results are exact.
 *
 * Floats. All maps have their channels next to each other (channels-last); strides are in floats.
 *
 * num_threads: threads of the process's OpenMP runtime (at least 1); results do not depend on it, nor on the instruction
 * set but for the last digits of tails, stems, linear layers, and sums over channels or positions. isa: BZ_ISA_AUTO or
 * one that bz_isa_available() confirms; packed weights of bz_pack_weights have a layout per instruction set and must be
 * used with the one they were packed for.
 *
 * Every int function returns a bz_status.
 */
#ifndef BINARIZE_H
#define BINARIZE_H

#include <stdint.h>

#if defined(_WIN32)
#define BZ_API __declspec(dllexport)
#else
#define BZ_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define BZ_ABI_VERSION 13
#define BZ_SLACK 16 /* words behind a bit plane that kernels may read */

typedef enum bz_status {
    BZ_OK = 0,
    BZ_BAD_ARGUMENT = 1, /* a null pointer, a size below 1, a kernel that reaches beyond the plane's border */
    BZ_NO_MEMORY = 2,    /* scratch could not be allocated; nothing useful was written */
    BZ_UNSUPPORTED = 3,  /* more taps or channels than the kernel can count */
    BZ_NO_ISA = 4,       /* this processor or build lacks the instruction set */
    BZ_NOT_FINITE = 5    /* a layer's scales that tables of whole numbers cannot hold; its step wrote nothing */
} bz_status;

typedef enum bz_isa {
    BZ_ISA_AUTO = 0,     /* that of bz_set_isa, else the best one available */
    BZ_ISA_PORTABLE = 1, /* plain C++ (NEON on aarch64) */
    BZ_ISA_AVX2 = 2,     /* AVX2 */
    BZ_ISA_AVX512 = 3,   /* AVX-512 F, BW, VL, DQ, VPOPCNTDQ */
    BZ_ISA_AMX = 4       /* AVX-512 VBMI, AMX TILE and INT8, on Linux */
} bz_isa;

typedef struct bz_plane_shape {
    int32_t images, height, width;
    int32_t channels; /* of all groups */
    int32_t groups;   /* divides channels */
    int32_t border_h, border_w;
} bz_plane_shape;

/* Output position oy reads the input positions oy * stride_h - pad_top + ky * dilation_h. pad_* may be negative
 * (the kernel starts inside); every position read must lie within the plane and its border. A kernel of 0 x 0 taps
 * gives zeros: the empty phases of a transposed convolution. */
typedef struct bz_conv_shape {
    bz_plane_shape input;
    int32_t out_channels; /* of all groups; divisible by input.groups */
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t out_h, out_w;
    /* Above 1: activations have a scale for each of so many groups of neighbouring channels, whose sums are scaled
     * before they are added (only of bz_conv, without groups of the convolution). Of the W words of a position, group g
     * has those from W * g / scale_groups on: at most W groups. */
    int32_t scale_groups;
} bz_conv_shape;

/* A float map: element (n, y, x, c) is data[n * image + y * row + x * pixel + c * channel]. Channel is 1 everywhere
 * but in a source of bz_pack, where pixel may be 1 instead (NCHW), and in one of bz_stem, where strides are any.
 * bf16: not 0 where data points to bfloat16 numbers, uint16_t each: the upper halves of floats, rounded to the nearest,
 * ties to even. Such maps are a source of bz_pack, bz_pack_dab and bz_channel_sums with channel 1, the out of a stem,
 * and in an epilogue the bypass, the residual and the out (with neither a tail nor bits); all else refuses them. */
typedef struct bz_map {
    float* data;
    int64_t image, row, pixel, channel;
    int32_t bf16;
} bz_map;

/* A map of another size, which stands for itself brought to the size at hand bilinearly, as torch's interpolate does;
 * the larger map is never stored. height, width: of the map itself. */
typedef struct bz_resize {
    int32_t height, width, align_corners;
} bz_resize;

typedef enum bz_activation_kind { BZ_ACT_NONE = 0, BZ_ACT_PIECEWISE = 1, BZ_ACT_CLAMP = 2 } bz_activation_kind;

/* Piecewise: t = y + before[o]; t = t < 0 ? t * negative[o] : t * positive[o]; y = t + after[o]: ReLU, PReLU, RPReLU,
 * Maxout. Null arrays stand for before = after = negative = 0 and positive = 1. Clamp: min(max(y, low), high). */
typedef struct bz_activation {
    int32_t kind;
    float low, high;
    const float *before, *negative, *positive, *after; /* [out_channels] or null */
} bz_activation;

/* A float 1x1 convolution behind an epilogue, done while its values are still in the cache, which are then not stored
 * at all: z[k] = add[k] + sum over o of y[o] * weights[k][o], in one chain of fused multiply-adds per k (portable: of
 * multiplications and additions). weights: [ceil(channels / 16)][out_channels][16], zeros behind the last channel. */
typedef struct bz_tail {
    const float* weights;
    const float* add; /* [channels padded to 16] or null = 0 */
    int32_t channels; /* of z; 0: no tail */
    bz_map out;
} bz_tail;

/* The bits that a result has as the next layer's input: the plane that bz_pack makes of it, with border and slack. It is
 * made while the values are still in the cache. shape: images, height, width and channels are the result's. */
typedef struct bz_bits {
    uint32_t* plane;
    bz_plane_shape shape;
    const float *mul, *add; /* [channels] or null, as of bz_pack */
} bz_bits;

/* What is done to each sum before it is stored, in this order:
 *   y = sum * mul[o] * sample_scale[n] + add[o];  first;  y += bypass;  second;  y += residual
 * With scale_groups sum is already scaled: sum over g of sample_scale[n][g] * (sum over the channels of g), instead of
 * the factor sample_scale[n]; there is no offset and no midpoint then.
 * With an offset or a midpoint, weights are mul[o] * (+-1) + offset[o] and activations (+-1) + midpoint (not of
 * bz_conv_scaled): with the sums over the taps inside, and the channels of o's group,
 *   y = (sum of weight * activation) * sample_scale[n] + add[o];  first;  ...
 *     = ((sum * mul[o] + midpoint * (mul[o] * sum of +-1 weights + offset[o] * number of products))
 *        + sum of +-1 activations * offset[o]) * sample_scale[n] + add[o];  first;  ...
 * where the second term is made in double and rounded once; a padded position counts 0 there, too. A midpoint of 1 or
 * -1 without an offset keeps sums whole numbers: y = (sum of weight * activation) * mul[o] * sample_scale[n] + add[o]...
 * bypass.data null: none. Else a map of the output's positions with bypass_channels channels, brought to the output's
 * channels: whole copies first, then out_channels % bypass_channels merged means (strided groups, the last one takes
 * what remains). Equal numbers of channels: added as is. */
typedef struct bz_epilogue {
    const float* mul;          /* [out_channels] or null = 1 */
    const float* add;          /* [out_channels] or null = 0 */
    const float* sample_scale; /* [images] or null = 1; [images][scale_groups] if there are any */
    const float* offset;       /* [out_channels] or null = 0 */
    float midpoint;
    bz_activation first, second;
    bz_map bypass;
    int32_t bypass_channels;
    bz_resize bypass_resize; /* height 0: the bypass has the output's size */
    bz_map residual; /* data null: none */
    bz_map out; /* not used if there is a tail; data may be null if there are bits. It shares no memory with bypass and
                   residual: some positions are computed twice */
    float* sums; /* [images][out_channels] of the values y over all positions, or null */
    bz_tail tail; /* not behind a depthwise convolution */
    const bz_bits* bits; /* or null; not with a tail, and not of a stem */
} bz_epilogue;

/* ---- what this library and processor can do ---- */
BZ_API int bz_abi_version(void);
BZ_API const char* bz_build_info(void);   /* "compiler=...;flags=...;version=...;openmp=0|1[;emulated=avx512]" */
BZ_API const char* bz_cpu_features(void); /* space separated, those that matter here */
BZ_API int bz_isa_available(int isa);     /* 1 or 0 */
BZ_API int bz_set_isa(int isa);           /* what BZ_ISA_AUTO means from now on; BZ_ISA_AUTO: the best again */
BZ_API int bz_get_isa(void);              /* what BZ_ISA_AUTO means now */

/* Multiply-accumulates per call of a loop on registers alone that runs `rounds` times the innermost operations of the
 * instruction set's convolution (xor, popcount, add; AVX2: shuffle, add): time it for the peak. */
BZ_API int bz_peak(int isa, int64_t rounds, double* macs);

/* ---- activations ---- */
BZ_API int64_t bz_plane_words(const bz_plane_shape* shape); /* with slack; -1 for a bad shape */

/* sums[n][c] = sum over positions of x (channels next to each other), accumulated in double across short runs. */
BZ_API int bz_channel_sums(int isa, int num_threads, const bz_plane_shape* shape, const bz_map* x, float* sums);

/* bit = (mul[c] * x + add[n * add_stride + c] >= 0), rounded as two operations; a NaN gives 0, -0.0 gives 1. So an
 * infinite mul gives x > 0: infinity times 0 is NaN.
 * mul, add: null for 1, 0. add_stride: 0 (one value per channel) or channels (per image and channel). abs_sums:
 * [images][channels] sums of abs(mul * x + add), or null; their last digits depend on the layout. resize: null, or how
 * x gets the plane's size (its channels have to be next to each other). Writes the whole plane with border and slack. */
BZ_API int bz_pack(int isa, int num_threads, const bz_plane_shape* shape, const bz_map* x, const bz_resize* resize,
                   const float* mul, const float* add, int64_t add_stride, uint32_t* plane, float* abs_sums);

/* The distribution-adaptive binarizer of BiDense (arXiv 2411.10346, Eqs. 5 to 10). With mean over the positions of an
 * image's channel: t = k * mean(x) + b; bit = (x - t >= 0); M = mean(abs(x - t)); scale = exp(a * (M - 1)).
 * mean(x) and M are limited to +-1e18, the exponent to 22: finite maps give finite scales. */
typedef struct bz_dab {
    const float *k, *b; /* [channels] or null = 0 */
    const float* a;     /* [channels], [groups] if there are any, or null: no scale */
    int32_t groups;     /* above 0: M is the mean over a group's channels (1: over all), scales are [images][groups]
                         * instead of [images][channels]; the groups are those of bz_conv_shape.scale_groups */
    int32_t plain;      /* the scale is M; a is not read */
} bz_dab;
/* x: channels next to each other; resize as for bz_pack. sums: those of bz_channel_sums (of the resized x), if somebody
 * has them already, or null. scratch: [2][images][channels]. scales: null if there is no scale. */
BZ_API int bz_pack_dab(int isa, int num_threads, const bz_plane_shape* shape, const bz_map* x,
                       const bz_resize* resize, const bz_dab* dab, const float* sums, uint32_t* plane,
                       float* scratch, float* scales);

/* ---- convolution: sums of +-1 products ---- */
/* Weights: [groups][ceil(out / groups / 16)][kernel_h * kernel_w * words per group][16] words; in the AVX2 layout the
 * 64 bytes of a row are [4 bytes of the word][16 outputs]. Counts: [kernel_h * kernel_w][groups * out padded to 16].
 * With scale_groups these layouts have them as groups, each with all outputs and its own number of words. */
BZ_API int64_t bz_weight_words(const bz_conv_shape* shape);
BZ_API int64_t bz_weight_counts(const bz_conv_shape* shape);
/* weights: [out][channels / groups][kernel_h][kernel_w] floats, contiguous; >= 0 is +1. */
BZ_API int bz_pack_weights(int isa, const bz_conv_shape* shape, const float* weights, uint32_t* words,
                           int32_t* counts);
BZ_API int bz_conv(int isa, int num_threads, const bz_conv_shape* shape, const uint32_t* plane, const uint32_t* words,
                   const int32_t* counts, const bz_epilogue* epilogue);
/* The sums themselves: out [images][out_h][out_w][out_channels]. */
BZ_API int bz_conv_int(int isa, int num_threads, const bz_conv_shape* shape, const uint32_t* plane,
                       const uint32_t* words, const int32_t* counts, int32_t* out);

/* ---- depthwise convolution: one filter per channel; at most 255 taps ---- */
/* shape: out_channels = input.channels, input.groups = 1 (the plane is packed without groups). Words: [taps][words per
 * pixel + BZ_SLACK], the pixel's words repeated; counts: [taps][channels padded to 32]. The same for all isa. */
BZ_API int64_t bz_depthwise_words(const bz_conv_shape* shape);
BZ_API int64_t bz_depthwise_counts(const bz_conv_shape* shape);
/* weights: [channels][kernel_h][kernel_w]. */
BZ_API int bz_pack_depthwise(const bz_conv_shape* shape, const float* weights, uint32_t* words, int32_t* counts);
BZ_API int bz_depthwise(int isa, int num_threads, const bz_conv_shape* shape, const uint32_t* plane,
                        const uint32_t* words, const int32_t* counts, const bz_epilogue* epilogue);
BZ_API int bz_depthwise_int(int isa, int num_threads, const bz_conv_shape* shape, const uint32_t* plane,
                            const uint32_t* words, const int32_t* counts, int32_t* out);

/* ---- convolution with one activation scale per image and channel ---- */
/* sum = sum over taps and channels of alpha[n][c] * activation * weight. exact 0: from tables of 16-bit sums of five
 * alphas each (four on AVX2; AMX: alphas of 14 bits), exact 1: of float sums, at down to half the speed (slow without AVX-512).
 * Words, as uint16_t, for one instruction set: [groups][ceil(out / groups / 32)][taps][ceil(ceil(channels per group / 5)
 * / 3)][32], three 5-bit pieces each; AVX2: [...][taps][ceil(channels per group / 8)][32] bytes, two 4-bit pieces each;
 * AMX: those of bz_pack_weights, and BZ_NOT_FINITE if an alpha is not finite. */
BZ_API int64_t bz_scaled_words(int isa, const bz_conv_shape* shape);
BZ_API int bz_pack_scaled(int isa, const bz_conv_shape* shape, const float* weights, uint16_t* words);
BZ_API int bz_conv_scaled(int isa, int num_threads, const bz_conv_shape* shape, const uint32_t* plane,
                          const uint16_t* words, const float* alpha, int exact, const bz_epilogue* epilogue);

/* ---- a whole layer: from floats to signs, and from those to floats ---- */
typedef enum bz_layer_kind { BZ_LAYER_CONV = 0, BZ_LAYER_DEPTHWISE = 1, BZ_LAYER_SCALED = 2 } bz_layer_kind;

/* What stays the same from call to call: the constants of a bz_layer_step. */
typedef struct bz_layer {
    bz_conv_shape conv; /* of a depthwise layer: see bz_depthwise */
    int32_t kind;       /* of bz_layer_kind: which of the convolutions */
    int32_t exact;      /* of bz_conv_scaled */
    const void* words;
    const int32_t* counts; /* not of bz_conv_scaled */
    const bz_dab* dab;     /* or null: */
    const float *mul, *add; /* of bz_pack, [channels] or null */
    bz_map x;              /* its strides */
    /* its constants. Of bypass and out the strides; sample_scale, sums, residual, tail and bits are not read. A dab's
     * scales become sample_scale (per layer), alpha (scaled) or a factor of mul and offset (depthwise, one image). */
    bz_epilogue epilogue;
} bz_layer;

/* ---- float convolution of few input channels ---- */
/* A max-pool as torch's: output position y is the largest of kernel_h lines from y * stride_h - pad_h on, as far as they
 * exist (at least one must); a NaN is larger than all else. At most 1024 positions. */
typedef struct bz_pool {
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w;
} bz_pool;

/* Batch norm by statistics of training: f = weight[o] / sqrt(variance[o] + eps); y = (y - mean[o]) * f + bias[o]. */
typedef struct bz_norm {
    const float *mean, *variance;
    const float *weight, *bias; /* or null for 1, 0 */
    double eps;
} bz_norm;

/* x: float map of shape->input, whose border is not there: positions in it count 0. Groups and dilation are 1, channels
 * times taps at most 2^20. weights: [out_channels][channels][kernel_h][kernel_w]. norm: of sum * mul[o] + add[o], or
 * null; made in double, and rounded to one factor and one summand. pool: what follows the epilogue, or null; with
 * one, epilogue.out has its positions, and epilogue.sums are those of its results. The epilogue has no sample_scale,
 * offset, midpoint, bypass, residual or tail. Sums are chains of fused multiply-adds (portable: of multiplications and
 * additions) by line, column and channel. */
BZ_API int bz_stem(int isa, int num_threads, const bz_conv_shape* shape, const bz_map* x, const float* weights,
                   const bz_norm* norm, const bz_pool* pool, const bz_epilogue* epilogue);

/* ---- training: what stands around the convolutions, one pass each ---- */
/* A map without gaps: x[image][position][channel] with channels_last, else x[image][channel][position]. Of weights, a
 * filter is an image of one channel. Sums over positions do not depend on num_threads. */
typedef struct bz_values {
    int64_t images, positions, channels;
    int32_t channels_last;
    int32_t reserved; /* 0 */
} bz_values;

/* y = magnitude * sign(x - threshold), sign(0) = 1; a NaN gives -magnitude. */
typedef struct bz_signs {
    const float *threshold, *magnitude; /* [channels], with per_image [images][channels]; null for 0, 1 */
    int32_t per_image;
    int32_t reserved; /* 0 */
} bz_signs;
BZ_API int bz_train_signs(int isa, int num_threads, const bz_values* values, const bz_signs* signs, const float* x,
                          float* y);
/* With u = x - threshold: gx = grad * magnitude * max(0, 2 - 2 abs(u)), NaN where u is. sums: [2][images][channels],
 * over positions, of gx and of grad * sign(u). gx may be grad. */
BZ_API int bz_train_signs_backward(int isa, int num_threads, const bz_values* values, const bz_signs* signs,
                                   const float* grad, const float* x, float* gx, double* sums);

/* The binarizer of bz_dab with all values: y = scale * sign(x - t), or M * sign(x - t) if it is plain. There is a scale
 * or it is plain. kept: [4][images][channels], for the backward pass: mean(x) (if there is a k), t, M, scale, those of a
 * group at each of its channels. */
BZ_API int bz_train_dab(int isa, int num_threads, const bz_values* values, const bz_dab* dab, const float* x,
                        float* kept, float* y);
/* With s = scale and h = max(0, 2 - 2 abs(x - t)), sums over images and positions: gx = grad s h; grads, [3][channels],
 * has sum of grad s (M - 1) sign(x - t) (of a; where the exponent is at its limit 0; 0 if plain; with groups the first
 * numbers), -sum of gx mean(x) (of k; 0 if there is none), -sum of gx (of b). gx may be grad. */
BZ_API int bz_train_dab_backward(int isa, int num_threads, const bz_values* values, const bz_dab* dab,
                                 const float* grad, const float* x, const float* kept, float* gx, float* grads);

/* t = x + before; y = (t > 0 ? positive : negative) * t + after. */
typedef struct bz_pieces {
    const float *before, *negative, *positive, *after; /* [channels] or null for 0, 0, 1, 0 */
    int32_t flat_at_zero; /* gx is 0 where t is 0, not negative * grad */
    int32_t reserved; /* 0 */
} bz_pieces;
BZ_API int bz_train_pieces(int isa, int num_threads, const bz_values* values, const bz_pieces* pieces, const float* x,
                           float* y);
/* grads, [4][channels], over images and positions: of before, negative, positive and after. gx may be grad. */
BZ_API int bz_train_pieces_backward(int isa, int num_threads, const bz_values* values, const bz_pieces* pieces,
                                    const float* grad, const float* x, float* gx, float* grads);

/* y += the bypass of bz_epilogue, of x [positions][in_channels] to y [positions][out_channels]. */
BZ_API int bz_train_bypass(int isa, int num_threads, int64_t positions, int64_t in_channels, int64_t out_channels,
                           const float* x, float* y);
/* gx, [positions][in_channels], from the gradient of y. */
BZ_API int bz_train_bypass_backward(int isa, int num_threads, int64_t positions, int64_t in_channels,
                                    int64_t out_channels, const float* grad, float* gx);

/* ---- programs: steps on memory that was planned beforehand ---- */
/* A network of one input shape is a list of steps whose addresses lie in memory of the caller. Sizes are those of the
 * result unless said otherwise. A map (bz_map) has channel 1; its other strides are any that are not negative, so it
 * may be a slice of a wider map. `sums`: [images][channels] of the result over its positions as bz_channel_sums gives
 * them, or null. Results and maps read may not overlap, except where a step says "in place". */
typedef enum bz_step_kind {
    BZ_STEP_LAYER = 0,
    BZ_STEP_STEM = 1,
    BZ_STEP_POINTWISE = 2,
    BZ_STEP_LAYER_NORM = 3,
    BZ_STEP_POOL = 4,
    BZ_STEP_MEAN = 5,
    BZ_STEP_LINEAR = 6,
    BZ_STEP_COPY = 7,
    BZ_STEP_RESIZE = 8,
    BZ_STEP_SOFTMAX = 9,
    BZ_STEP_ATTENTION = 10
} bz_step_kind;

typedef struct bz_step {
    int32_t kind; /* of bz_step_kind */
    int32_t reserved; /* 0 */
    const void* arguments; /* the structure of that kind: bz_layer_step, bz_stem_step, ... */
} bz_step;

/* Strides of bypass and out are those of layer->epilogue. */
typedef struct bz_layer_step {
    const bz_layer* layer;
    const float* x;         /* not read if there is a plane */
    const float* sums_of_x; /* as sums of bz_pack_dab, or null */
    const float* bypass;    /* or null */
    float* out;             /* null: no float map, but a tail or bits */
    float* sums;            /* or null */
    void* scratch;          /* bz_layer_scratch() bytes at a multiple of 64, or null: allocated by the call */
    bz_map residual;        /* data null: none */
    bz_tail tail;           /* channels 0: none */
    bz_resize resize;       /* of x, as of bz_pack; height 0: x has the size of the layer's input */
    const uint32_t* plane;  /* bits of x that the layer in front has made (only of layers without a dab), or null */
    const bz_bits* bits;    /* or null; not with a tail */
} bz_layer_step;
BZ_API int64_t bz_layer_scratch(const bz_layer* layer); /* -1 for a bad layer */

typedef struct bz_stem_step { /* the arguments of bz_stem */
    const bz_conv_shape* shape;
    bz_map x;
    const float* weights;
    const bz_norm* norm;
    const bz_pool* pool;
    const bz_epilogue* epilogue;
} bz_stem_step;

/* a, b: registers; v[0] to v[3]: [channels]. NaN, infinities and -0.0 as torch's functions of the same name. */
typedef enum bz_op {
    BZ_OP_ADD = 0,
    BZ_OP_SUB = 1,
    BZ_OP_MUL = 2,
    BZ_OP_DIV = 3,
    BZ_OP_MIN = 4, /* a NaN wins */
    BZ_OP_MAX = 5, /* a NaN wins */
    BZ_OP_NEG = 6,
    BZ_OP_ABS = 7,
    BZ_OP_RELU = 8,
    BZ_OP_CLAMP = 9,      /* min(max(a, p), q) */
    BZ_OP_PIECEWISE = 10, /* bz_activation with v = before, negative, positive, after, each or null */
    BZ_OP_SIGMOID = 11,
    BZ_OP_SILU = 12,
    BZ_OP_TANH = 13,
    BZ_OP_GELU = 14,      /* by erf */
    BZ_OP_GELU_TANH = 15, /* its approximation by tanh */
    BZ_OP_HARDSIGMOID = 16,
    BZ_OP_HARDSWISH = 17,
    BZ_OP_EXP = 18,
    BZ_OP_SQRT = 19,
    BZ_OP_RSQRT = 20,
    BZ_OP_SQUARE = 21,
    BZ_OP_ELU = 22,      /* p = alpha */
    BZ_OP_SOFTPLUS = 23, /* p = beta; a where a * p > q */
    BZ_OP_LEAKY = 24,    /* a < 0 ? p * a : a */
    BZ_OP_AFFINE = 25,   /* v[0] * a + v[1], rounded as two operations; null for 1, 0 */
    BZ_OP_ADD_SCALAR = 26, /* a + p */
    BZ_OP_MUL_SCALAR = 27, /* a * p */
    BZ_OP_COPY = 28
} bz_op;

typedef struct bz_instruction {
    int32_t op, to, a, b; /* b: of ADD to DIV, MIN and MAX */
    float p, q;
    const float* v[4];
} bz_instruction;

typedef struct bz_result {
    int32_t source; /* register */
    int32_t reserved; /* 0 */
    bz_map out;
    float* sums; /* or null */
} bz_result;

/* Instructions in their order on registers, one element at a time. Registers 0 to operands - 1 are the operands, those
 * up to BZ_REGISTERS - 1 are free; any may be written. Operands' strides may be 0: a vector of channels (image, row and
 * pixel 0), one per image (row and pixel 0), a number per position (channel 0), one number (all 0). In place: an
 * operand may be the map of a result, with the same strides. */
#define BZ_REGISTERS 16
typedef struct bz_pointwise_step {
    int32_t images, height, width, channels;
    int32_t operands, instructions, results; /* numbers of them */
    int32_t reserved; /* 0 */
    const bz_map* operand;
    const bz_instruction* instruction;
    const bz_result* result;
} bz_pointwise_step;

/* y = (x - mean) / sqrt(variance + eps) * weight[c] + bias[c] over the channels of each position;  first;
 * + bypass, as in bz_epilogue;  second;  + residual. out may be x or residual. */
typedef struct bz_layer_norm_step {
    int32_t images, height, width, channels;
    bz_map x, out;
    const float *weight, *bias; /* [channels] or null for 1, 0 */
    double eps;
    float* sums;
    bz_activation first, second;
    bz_map bypass; /* data null for none */
    int32_t bypass_channels;
    bz_map residual; /* data null for none */
} bz_layer_norm_step;

/* Largest or mean value of each window. average: the sum is divided by `divisor`, or if that is 0 by the window's
 * positions: inside the map, or with count_include_pad inside the map and its padding. adaptive: window i of n along
 * an axis of size s is [floor(i s / n), ceil((i + 1) s / n)); only out_h and out_w of the geometry are read. */
typedef struct bz_pool_step {
    int32_t images, channels, height, width; /* height, width: of x */
    bz_pool geometry;
    int32_t average, count_include_pad, divisor, adaptive;
    bz_map x, out;
    float* sums;
} bz_pool_step;

/* Means over positions. sums: of x, if somebody has them (x is not read then), or null. */
typedef struct bz_mean_step {
    int32_t images, height, width, channels; /* of x */
    bz_map x;
    const float* sums;
    float* out; /* [images][channels] */
} bz_mean_step;

/* y[r][o] = op(add[o] + sum over i of x[r][i] * w[o][i]), one chain of fused multiply-adds per output (portable: of
 * multiplications and additions). op: one that reads only a, p and q; COPY for none. */
typedef struct bz_linear_step {
    int32_t rows, inputs, outputs;
    int32_t op;
    const float* x;
    int64_t x_row; /* floats from one row to the next */
    const float* weights; /* [outputs][inputs], rows weights_row floats apart; not read if there are bf16_weights */
    int64_t weights_row;
    const uint16_t* bf16_weights; /* [ceil(outputs / 16)][inputs][16] in bfloat16, behind the last output 0; or null */
    const float* add; /* [outputs] or null = 0 */
    float p, q;
    float* y;
    int64_t y_row;
} bz_linear_step;

/* y[i . to] = x[i . from] for all i below size. x null: `value` instead (from is not read). */
#define BZ_COPY_DIMS 6
typedef struct bz_copy_step {
    int32_t dims; /* at most BZ_COPY_DIMS */
    float value;
    int64_t size[BZ_COPY_DIMS], from[BZ_COPY_DIMS], to[BZ_COPY_DIMS];
    const float* x;
    float* y;
} bz_copy_step;

typedef enum bz_resize_mode {
    BZ_RESIZE_BILINEAR = 0,
    BZ_RESIZE_BILINEAR_ALIGNED = 1, /* align_corners */
    BZ_RESIZE_NEAREST = 2,
    BZ_RESIZE_NEAREST_EXACT = 3
} bz_resize_mode;

typedef struct bz_resize_step {
    int32_t images, channels;
    int32_t height, width; /* of x */
    int32_t out_h, out_w;
    int32_t mode; /* of bz_resize_mode */
    float step_h, step_w; /* positions of x per position of out (1 / scale_factor); 0: height / out_h, width / out_w */
    bz_map x, out;
    float* sums;
} bz_resize_step;

/* y[r] = softmax of factor * x[r]. In place. */
typedef struct bz_softmax_step {
    int64_t rows;
    int32_t length;
    float factor;
    const float* x;
    int64_t x_row; /* floats from one row to the next */
    float* y;
    int64_t y_row;
} bz_softmax_step;

/* Rows of floats of each head of each window of each image: element e of row i is data[n * image + w * window +
 * h * head + i * row + e]. Strides are not negative; those of what is read may be 0. */
typedef struct bz_heads {
    float* data;
    int64_t image, window, head, row;
} bz_heads;

/* out = softmax(factor * q k^T + bias[0] + bias[1]) v in each head. A bias is [rows][columns], or not there (data null).
 * masked_is_zero: a row whose scores are all -inf gives the sum of 0 * v instead of NaN. Each score and each result is
 * one chain of fused multiply-adds (portable: of multiplications and additions). At most 2^28 floats of scratch. */
typedef struct bz_attention_step {
    int32_t images, windows, heads;
    int32_t rows, columns; /* queries, keys */
    int32_t depth, values; /* floats of a query or key; of a value */
    int32_t masked_is_zero;
    float factor;
    bz_heads q, k, v, bias[2], out;
} bz_attention_step;

/* Runs the steps one after the other up to the first whose status is not BZ_OK; returns that, and writes its index to
 * `failed` (or null). BZ_NOT_FINITE: a layer's scales are not finite; its result was not written. */
BZ_API int bz_run(int isa, int num_threads, int64_t count, const bz_step* steps, int64_t* failed);

#ifdef __cplusplus
}
#endif
#endif
