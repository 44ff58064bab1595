// Random geometries through every kernel and instruction set against a plain reference; for sanitizers.
//
//     native_driver [ROUNDS]
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <random>
#include <vector>

#include "binarize.h"

static std::mt19937 random_bits(1);

static int between(int low, int high) { return low + int(random_bits() % unsigned(high - low + 1)); }

static std::vector<float> normal(size_t n) {
    std::normal_distribution<float> d;
    std::vector<float> v(n);
    for (float& x : v) x = d(random_bits);
    return v;
}

static void must(int status, const char* what) {
    if (status != BZ_OK) {
        fprintf(stderr, "%s: status %d\n", what, status);
        exit(1);
    }
}

static int sign(float x) { return x >= 0 ? 1 : -1; }

struct Layer {
    bz_conv_shape s;
    std::vector<float> x, weights, alpha, mul, offset;
    float midpoint;
};

enum Kind { kPlain, kScaled, kValues };  // +-1 on both sides; +-alpha; two other values on each side

static Layer random_layer(bool depthwise) {
    Layer l = {};
    bz_conv_shape& s = l.s;
    bz_plane_shape& in = s.input;
    in.groups = depthwise ? 1 : between(1, 3);
    const int inside = between(1, 100), outputs = depthwise ? inside : between(1, 80);
    in.channels = in.groups * inside;
    s.out_channels = in.groups * outputs;
    in.images = between(1, 2);
    s.kernel_h = between(1, 5), s.kernel_w = between(1, 5);
    s.stride_h = between(1, 3), s.stride_w = between(1, 3);
    s.dilation_h = between(1, 2), s.dilation_w = between(1, 2);
    s.pad_top = between(-1, 3), s.pad_left = between(-1, 3);
    in.height = between(2, 9), in.width = between(2, 9);
    in.border_h = 12, in.border_w = 12;
    s.out_h = between(1, (in.height + s.pad_top) / s.stride_h + 1);
    s.out_w = between(1, (in.width + s.pad_left) / s.stride_w + 1);
    l.x = normal(size_t(in.images) * in.height * in.width * in.channels);
    l.weights = normal(size_t(s.out_channels) * (depthwise ? 1 : inside) * s.kernel_h * s.kernel_w);
    l.alpha = normal(size_t(in.images) * in.channels);
    l.mul = normal(size_t(s.out_channels));
    l.offset = normal(size_t(s.out_channels));
    l.midpoint = normal(1)[0];
    return l;
}

static double product(const Layer& l, Kind kind, int n, int c, int o, int activation, int weight) {
    if (kind == kScaled) return activation * weight * double(l.alpha[size_t(n) * l.s.input.channels + c]);
    if (kind == kPlain) return activation * weight;
    return (activation + double(l.midpoint)) * (weight * double(l.mul[o]) + double(l.offset[o]));
}

static double sum_of(const Layer& l, bool depthwise, Kind kind, int n, int y, int x, int o) {
    const bz_conv_shape& s = l.s;
    const bz_plane_shape& in = s.input;
    const int inside = depthwise ? 1 : in.channels / in.groups;
    const int first = depthwise ? o : o / (s.out_channels / in.groups) * inside;
    double sum = 0;
    for (int ky = 0; ky < s.kernel_h; ++ky)
        for (int kx = 0; kx < s.kernel_w; ++kx) {
            const int iy = y * s.stride_h - s.pad_top + ky * s.dilation_h;
            const int ix = x * s.stride_w - s.pad_left + kx * s.dilation_w;
            if (iy < 0 || iy >= in.height || ix < 0 || ix >= in.width) continue;
            for (int c = 0; c < inside; ++c) {
                const float a = l.x[((size_t(n) * in.height + iy) * in.width + ix) * in.channels + first + c];
                const float w = l.weights[((size_t(o) * inside + c) * s.kernel_h + ky) * s.kernel_w + kx];
                sum += product(l, kind, n, first + c, o, sign(a), sign(w));
            }
        }
    return sum;
}

static void check(const Layer& l, bool depthwise, Kind kind, const float* got, double slack, const char* what) {
    const bz_conv_shape& s = l.s;
    size_t i = 0;
    for (int n = 0; n < s.input.images; ++n)
        for (int y = 0; y < s.out_h; ++y)
            for (int x = 0; x < s.out_w; ++x)
                for (int o = 0; o < s.out_channels; ++o, ++i) {
                    const double wanted = sum_of(l, depthwise, kind, n, y, x, o), off = double(got[i]) - wanted;
                    if (off > slack || off < -slack) {
                        fprintf(stderr, "%s: got %g, expected %g\n", what, double(got[i]), wanted);
                        exit(1);
                    }
                }
}

// The kernels of training: buffers end where the last number does.
static void training(int isa) {
    const bz_values v = {between(1, 3), between(1, 300), between(1, 140), between(0, 1), 0};
    const size_t channels = size_t(v.channels), per_image = size_t(v.images) * channels;
    const size_t all = per_image * size_t(v.positions);
    const int threads = between(1, 2), groups = between(0, int(v.channels + 31) / 32);
    const std::vector<float> x = normal(all), grad = normal(all), k = normal(channels), b = normal(channels);
    const std::vector<float> a = normal(groups ? size_t(groups) : channels);
    std::vector<float> kept(4 * per_image), y(all), gx(all), grads(4 * channels);
    std::vector<double> sums(2 * per_image);
    const bz_dab dab = {k.data(), b.data(), a.data(), groups, 0};
    must(bz_train_dab(isa, threads, &v, &dab, x.data(), kept.data(), y.data()), "train dab");
    must(bz_train_dab_backward(isa, threads, &v, &dab, grad.data(), x.data(), kept.data(), gx.data(), grads.data()),
         "train dab backward");
    const bz_signs signs = {k.data(), nullptr, 0, 0};
    must(bz_train_signs(isa, threads, &v, &signs, x.data(), y.data()), "train signs");
    must(bz_train_signs_backward(isa, threads, &v, &signs, grad.data(), x.data(), gx.data(), sums.data()),
         "train signs backward");
    const bz_pieces pieces = {k.data(), b.data(), nullptr, k.data(), between(0, 1), 0};
    must(bz_train_pieces(isa, threads, &v, &pieces, x.data(), y.data()), "train pieces");
    must(bz_train_pieces_backward(isa, threads, &v, &pieces, grad.data(), x.data(), gx.data(), grads.data()),
         "train pieces backward");
    const int64_t positions = v.images * v.positions, outputs = between(1, 200);
    std::vector<float> onto = normal(size_t(positions * outputs));
    must(bz_train_bypass(isa, threads, positions, v.channels, outputs, x.data(), onto.data()), "train bypass");
    must(bz_train_bypass_backward(isa, threads, positions, v.channels, outputs, onto.data(), gx.data()),
         "train bypass backward");
}

// A float stem with and without a pool: buffers end where the last number does.
static void stem(int isa) {
    bz_conv_shape s = {};
    bz_plane_shape& in = s.input;
    in.images = between(1, 3), in.channels = between(1, 5), in.groups = 1;
    in.height = between(1, 12), in.width = between(1, 40);
    s.out_channels = between(1, 70), s.dilation_h = s.dilation_w = 1;
    s.kernel_h = between(1, 5), s.kernel_w = between(1, 5);
    s.stride_h = between(1, 6), s.stride_w = between(1, 6);
    s.pad_top = between(-1, 3), s.pad_left = between(-1, 3);
    in.border_h = in.border_w = 5;
    s.out_h = between(1, (in.height + s.pad_top) / s.stride_h + 1);
    s.out_w = between(1, (in.width + s.pad_left) / s.stride_w + 1);
    bz_pool p = {between(1, 3), between(1, 3), between(1, 4), between(1, 4), 0, 0, 0, 0};
    p.pad_h = between(0, p.kernel_h - 1), p.pad_w = between(0, p.kernel_w - 1);
    p.out_h = between(1, (s.out_h - 1 + p.pad_h) / p.stride_h + 1);
    p.out_w = between(1, (s.out_w - 1 + p.pad_w) / p.stride_w + 1);
    const int64_t area = int64_t(in.height) * in.width, outputs = s.out_channels;
    std::vector<float> x = normal(size_t(in.images * in.channels * area));
    std::vector<float> weights = normal(size_t(outputs * in.channels * s.kernel_h * s.kernel_w));
    const bool planes = between(0, 1);
    const bz_map map = planes ? bz_map{x.data(), in.channels * area, in.width, 1, area, 0}
                              : bz_map{x.data(), in.channels * area, int64_t(in.width) * in.channels, in.channels, 1, 0};
    std::vector<float> add = normal(size_t(outputs)), sums(size_t(in.images * outputs));
    for (const bz_pool* pool : {static_cast<const bz_pool*>(nullptr), static_cast<const bz_pool*>(&p)}) {
        const int64_t high = pool ? p.out_h : s.out_h, wide = pool ? p.out_w : s.out_w;
        std::vector<float> out(size_t(in.images * high * wide * outputs));
        bz_epilogue e = {};
        e.add = add.data(), e.first.kind = BZ_ACT_PIECEWISE, e.sums = sums.data();
        e.out = {out.data(), high * wide * outputs, wide * outputs, outputs, 1, 0};
        must(bz_stem(isa, between(1, 3), &s, &map, weights.data(), nullptr, pool, &e), "stem");
        const auto value = [&](int64_t n, int64_t y, int64_t x0, int64_t o) {
            double sum = add[size_t(o)];
            for (int c = 0; c < in.channels; ++c)
                for (int ky = 0; ky < s.kernel_h; ++ky)
                    for (int kx = 0; kx < s.kernel_w; ++kx) {
                        const int64_t iy = y * s.stride_h - s.pad_top + ky, ix = x0 * s.stride_w - s.pad_left + kx;
                        if (iy < 0 || iy >= in.height || ix < 0 || ix >= in.width) continue;
                        sum += double(map.data[n * map.image + iy * map.row + ix * map.pixel + c * map.channel]) *
                               weights[size_t(((o * in.channels + c) * s.kernel_h + ky) * s.kernel_w + kx)];
                    }
            return sum < 0 ? 0 : sum;
        };
        for (int64_t i = 0; i < int64_t(out.size()); ++i) {
            const int64_t o = i % outputs, x0 = i / outputs % wide, y = i / outputs / wide % high;
            const int64_t n = i / outputs / wide / high;
            double wanted = pool ? -1 : value(n, y, x0, o);
            for (int ky = 0; pool && ky < p.kernel_h; ++ky)
                for (int kx = 0; kx < p.kernel_w; ++kx) {
                    const int64_t iy = y * p.stride_h - p.pad_h + ky, ix = x0 * p.stride_w - p.pad_w + kx;
                    if (iy < 0 || iy >= s.out_h || ix < 0 || ix >= s.out_w) continue;
                    const double v = value(n, iy, ix, o);
                    wanted = v > wanted ? v : wanted;
                }
            const double off = double(out[size_t(i)]) - wanted;
            if (off > 1e-4 || off < -1e-4) {
                fprintf(stderr, "stem: got %g, expected %g\n", double(out[size_t(i)]), wanted);
                exit(1);
            }
        }
    }
}

// A layer that gives bits in place of its map y, and reads a plane in place of x if it is given one.
void bits_of_layer(int isa, int threads, bz_layer_step given, const bz_conv_shape& s, std::vector<float> y,
                   const uint32_t* plane) {
    const int groups = s.out_channels % 2 ? 1 : between(1, 2);
    const bz_plane_shape shape = {s.input.images, s.out_h, s.out_w, s.out_channels, groups, between(0, 2), between(0, 2)};
    const std::vector<float> mul = normal(size_t(s.out_channels)), add = normal(size_t(s.out_channels));
    std::vector<uint32_t> wanted(size_t(bz_plane_words(&shape))), words(wanted.size(), 0xffffffffu);
    const bz_map map = {y.data(), int64_t(s.out_h) * s.out_w * s.out_channels, int64_t(s.out_w) * s.out_channels,
                        s.out_channels, 1, 0};
    const float* const add_or_none = between(0, 1) ? add.data() : nullptr;
    must(bz_pack(isa, threads, &shape, &map, nullptr, mul.data(), add_or_none, 0, wanted.data(), nullptr), "pack");
    const bz_bits bits = {words.data(), shape, mul.data(), add_or_none};
    given.out = nullptr, given.bits = &bits;
    if (plane) given.x = nullptr, given.plane = plane;
    const bz_step step = {BZ_STEP_LAYER, 0, &given};
    must(bz_run(isa, threads, 1, &step, nullptr), "layer");
    if (words == wanted) return;
    fprintf(stderr, "layer: its bits are not those of its map\n");
    exit(1);
}

uint16_t to_bf16(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return uint16_t(value != value ? word >> 16 | 0x40 : (word + 0x7fff + (word >> 16 & 1)) >> 16);
}

float from_bf16(uint16_t half) {
    const uint32_t word = uint32_t(half) << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

// A map as floats that bfloat16 holds, and as those.
struct Bf16 {
    std::vector<float> floats;
    std::vector<uint16_t> halves;
    explicit Bf16(const std::vector<float>& map) : floats(map), halves(map.size()) {
        for (size_t i = 0; i < map.size(); ++i) {
            halves[i] = to_bf16(map[i]);
            floats[i] = from_bf16(halves[i]);
        }
    }
    float* as(bool bf16) { return bf16 ? reinterpret_cast<float*>(halves.data()) : floats.data(); }
};

// A layer on maps of which some hold bfloat16: what it gives of the same numbers as floats, rounded if asked for.
void layer_of_bf16(int isa, int threads, bz_layer_step given, const std::vector<float>& x,
                   const std::vector<float>& bypass) {
    bz_layer l = *given.layer;
    const bz_conv_shape& s = l.conv;
    const size_t size = size_t(s.input.images) * s.out_h * s.out_w * s.out_channels;
    Bf16 in(x), way(bypass), residual(normal(size));
    std::vector<float> wanted(size), floats(size), wanted_sums(size_t(s.input.images) * s.out_channels);
    std::vector<float> sums(wanted_sums.size());
    std::vector<uint16_t> halves(size);
    const bool added = between(0, 1), to = between(0, 1), from = between(0, 1);
    given.layer = &l, given.bits = nullptr;
    given.x = in.floats.data(), given.bypass = given.bypass ? way.floats.data() : nullptr;
    given.out = wanted.data(), given.sums = wanted_sums.data();
    given.residual = l.epilogue.out;
    given.residual.data = added ? residual.floats.data() : nullptr;
    const bz_step step = {BZ_STEP_LAYER, 0, &given};
    must(bz_run(isa, threads, 1, &step, nullptr), "layer");
    l.x.bf16 = from, given.x = in.as(from);
    l.epilogue.bypass.bf16 = !from, given.bypass = given.bypass ? way.as(!from) : nullptr;
    given.residual.bf16 = from, given.residual.data = added ? residual.as(from) : nullptr;
    l.epilogue.out.bf16 = to, given.out = to ? reinterpret_cast<float*>(halves.data()) : floats.data();
    given.sums = sums.data();
    must(bz_run(isa, threads, 1, &step, nullptr), "layer of bfloat16");
    bool same = sums == wanted_sums;
    for (size_t i = 0; i < size; ++i) same &= to ? halves[i] == to_bf16(wanted[i]) : floats[i] == wanted[i];
    if (same) return;
    fprintf(stderr, "layer: maps of bfloat16 give another result\n");
    exit(1);
}

// A step against the calls that it stands for: the same bits.
void layer(int isa, const bz_conv_shape& shape, int kind, const std::vector<float>& weights, int threads) {
    bz_conv_shape s = shape;
    const bool depthwise = kind == BZ_LAYER_DEPTHWISE, per_channel = kind == BZ_LAYER_SCALED || between(0, 1);
    if (kind == BZ_LAYER_DEPTHWISE && per_channel) s.input.images = 1;
    const bz_plane_shape& in = s.input;
    const size_t channels = size_t(in.channels), all = size_t(in.images) * channels;
    std::vector<float> x = normal(all * size_t(in.height) * size_t(in.width));
    const std::vector<float> k = normal(channels), b = normal(channels), a = normal(channels);
    const std::vector<float> mul = normal(size_t(s.out_channels)), offset = normal(size_t(s.out_channels));
    bz_dab dab = {k.data(), between(0, 1) ? b.data() : nullptr, a.data(), !per_channel, 0};
    const bool plain = kind != BZ_LAYER_SCALED && between(0, 1);
    const int words_of = (in.channels + 31) / 32;
    if (!plain && kind == BZ_LAYER_CONV) dab.groups = in.groups == 1 ? between(1, words_of) : 1;
    if (!plain && depthwise && s.input.images == 1) dab.groups = between(0, words_of);
    s.scale_groups = kind == BZ_LAYER_CONV && !plain ? dab.groups : 0;
    bz_layer l = {};
    l.conv = s, l.kind = kind, l.exact = between(0, 1);
    l.x = {nullptr, int64_t(in.height) * in.width * in.channels, int64_t(in.width) * in.channels, in.channels, 1, 0};
    std::vector<uint32_t> words(
        size_t(depthwise ? bz_depthwise_words(&s) : kind == BZ_LAYER_CONV ? bz_weight_words(&s) : 1));
    std::vector<int32_t> counts(
        size_t(depthwise ? bz_depthwise_counts(&s) : kind == BZ_LAYER_CONV ? bz_weight_counts(&s) : 1));
    std::vector<uint16_t> pieces(size_t(kind == BZ_LAYER_SCALED ? bz_scaled_words(isa, &s) : 1));
    if (depthwise) must(bz_pack_depthwise(&s, weights.data(), words.data(), counts.data()), "pack");
    else if (kind == BZ_LAYER_SCALED) must(bz_pack_scaled(isa, &s, weights.data(), pieces.data()), "pack");
    else must(bz_pack_weights(isa, &s, weights.data(), words.data(), counts.data()), "pack");
    l.words = kind == BZ_LAYER_SCALED ? static_cast<const void*>(pieces.data()) : words.data();
    l.counts = kind == BZ_LAYER_SCALED ? nullptr : counts.data();
    if (plain) l.add = b.data();
    else l.dab = &dab;
    bz_epilogue& e = l.epilogue;
    e.mul = mul.data();
    if (depthwise) e.offset = offset.data();
    const size_t positions = size_t(in.images) * s.out_h * s.out_w;
    const int way_channels = between(0, 2) ? between(1, 40) : between(41, 150);
    const std::vector<float> bypass = normal(positions * size_t(way_channels));
    std::vector<float> out(positions * s.out_channels), wanted(out.size());
    std::vector<float> sums(size_t(in.images) * s.out_channels), wanted_sums(sums.size());
    const int64_t way_row = int64_t(s.out_w) * way_channels;
    e.bypass = {nullptr, s.out_h * way_row, way_row, way_channels, 1, 0};
    e.bypass_channels = way_channels;
    e.out = {nullptr, int64_t(s.out_h) * s.out_w * s.out_channels, int64_t(s.out_w) * s.out_channels, s.out_channels, 1, 0};
    const float* const way = between(0, 1) ? bypass.data() : nullptr;
    const bool summed = between(0, 1);
    bz_layer_step given = {};
    given.layer = &l, given.x = x.data(), given.bypass = way, given.out = out.data();
    given.sums = summed ? sums.data() : nullptr;
    const bz_step step = {BZ_STEP_LAYER, 0, &given};
    must(bz_run(isa, threads, 1, &step, nullptr), "layer");

    std::vector<uint32_t> plane(size_t(bz_plane_words(&in)));
    std::vector<float> scratch(2 * all), scales(all);
    bz_map map = l.x;
    map.data = x.data();
    if (plain) must(bz_pack(isa, threads, &in, &map, nullptr, nullptr, b.data(), 0, plane.data(), nullptr), "pack");
    else
        must(bz_pack_dab(isa, threads, &in, &map, nullptr, &dab, nullptr, plane.data(), scratch.data(), scales.data()),
             "pack");
    e.bypass.data = const_cast<float*>(way);
    e.out.data = wanted.data();
    e.sums = summed ? wanted_sums.data() : nullptr;
    std::vector<float> mul_of = mul, offset_of = offset;
    if (!plain && dab.groups && !(depthwise && dab.groups > 1)) e.sample_scale = scales.data();
    if (!plain && depthwise && dab.groups != 1) {
        for (size_t c = 0; c < channels; ++c) {
            int g = dab.groups ? 0 : int(c);
            while (dab.groups && g + 1 < dab.groups && int(c) / 32 >= words_of * (g + 1) / dab.groups) ++g;
            mul_of[c] *= scales[size_t(g)], offset_of[c] *= scales[size_t(g)];
        }
        e.mul = mul_of.data(), e.offset = offset_of.data();
    }
    if (kind == BZ_LAYER_SCALED)
        must(bz_conv_scaled(isa, threads, &s, plane.data(), pieces.data(), scales.data(), l.exact, &e), "scaled");
    else
        must((depthwise ? bz_depthwise : bz_conv)(isa, threads, &s, plane.data(), words.data(), counts.data(), &e),
             "conv");
    if (memcmp(out.data(), wanted.data(), sizeof(float) * out.size()) || sums != wanted_sums) {
        fprintf(stderr, "layer: other bits than its parts, kind %d\n", kind);
        exit(1);
    }
    e.bypass.data = e.out.data = nullptr;
    e.sums = nullptr;
    e.mul = mul.data(), e.offset = depthwise ? offset.data() : nullptr, e.sample_scale = nullptr;
    bits_of_layer(isa, threads, given, s, wanted, plain ? plane.data() : nullptr);
    layer_of_bf16(isa, threads, given, x, bypass);
    if (kind != BZ_LAYER_SCALED) return;
    x[0] = NAN;
    given.sums = nullptr;
    if (bz_run(isa, threads, 1, &step, nullptr) != BZ_NOT_FINITE) {
        fprintf(stderr, "layer: scales that are not finite were taken\n");
        exit(1);
    }
}

static bz_map map_of(std::vector<float>& x, int64_t height, int64_t width, int64_t pixel) {
    return {x.data(), height * width * pixel, width * pixel, pixel, 1, 0};
}

static void must_run(int isa, int kind, const void* arguments, const char* what) {
    const bz_step step = {kind, 0, arguments};
    must(bz_run(isa, between(1, 2), 1, &step, nullptr), what);
}

static void must_be(double got, double wanted, double slack, const char* what) {
    if (fabs(got - wanted) > slack * (1 + fabs(wanted))) {
        fprintf(stderr, "%s: got %g, expected %g\n", what, got, wanted);
        exit(1);
    }
}

// Steps on maps whose buffers end where the last number does.
static void pointwise_step(int isa) {
    const int n = between(1, 2), h = between(1, 9), w = between(1, 9), c = between(1, between(0, 1) ? 9 : 90);
    const size_t count = size_t(n) * h * w * c;
    std::vector<float> x = normal(count), y = normal(size_t(n) * c), v = normal(size_t(c)), u = normal(size_t(c));
    std::vector<float> out(count), sums(size_t(n) * c), before = x;
    const bool in_place = between(0, 1);
    const bz_map operands[2] = {map_of(x, h, w, c), {y.data(), c, 0, 0, 1, 0}};
    const bz_instruction instructions[3] = {{BZ_OP_MUL, 2, 0, 1, 0, 0, {}},
                                            {BZ_OP_AFFINE, 2, 2, 0, 0, 0, {v.data(), u.data()}},
                                            {BZ_OP_SIGMOID, 3, 2, 0, 0, 0, {}}};
    const bz_result result = {3, 0, in_place ? operands[0] : map_of(out, h, w, c), sums.data()};
    const bz_pointwise_step s = {n, h, w, c, 2, 3, 1, 0, operands, instructions, &result};
    must_run(isa, BZ_STEP_POINTWISE, &s, "pointwise");
    for (size_t i = 0; i < count; ++i) {
        const size_t channel = i % size_t(c), image = i / size_t(c) / size_t(h * w);
        const double t = double(before[i]) * y[image * size_t(c) + channel] * v[channel] + u[channel];
        must_be((in_place ? x : out)[i], 1 / (1 + exp(-t)), 1e-5, "pointwise");
    }
}

// Channel o of a bypass of `in` channels for `out`: copies, then means, the last one of all that are left.
static double bypass_value(const float* x, int in, int out, int o) {
    const int copied = out / in * in, merged = out - copied;
    if (o < copied) return x[o % in];
    const int j = o - copied, size = in / merged, step = merged - 1;
    const bool last = j == step;
    const int terms = last ? in - size * step : size;
    double sum = 0;
    for (int t = 0; t < terms; ++t) sum += last ? x[size * step + t] : x[j + t * step];
    return sum / terms;
}

static void row_steps(int isa) {
    const int n = between(1, 2), h = between(1, 5), w = between(1, 9), c = between(0, 2) ? between(1, 90) : between(91, 300);
    const size_t count = size_t(n) * h * w * c;
    std::vector<float> x = normal(count), out(count), soft(count), v = normal(size_t(c)), sums(size_t(n) * c);
    bz_layer_norm_step s = {};
    s.images = n, s.height = h, s.width = w, s.channels = c;
    s.x = map_of(x, h, w, c), s.out = map_of(out, h, w, c), s.weight = v.data(), s.eps = 1e-5, s.sums = sums.data();
    const int ways = between(1, 300);
    std::vector<float> way = normal(size_t(n) * h * w * ways), added = normal(count), with(count);
    bz_layer_norm_step full = s;
    full.out = map_of(with, h, w, c), full.residual = map_of(added, h, w, c);
    full.bypass = map_of(way, h, w, ways), full.bypass_channels = ways;
    must_run(isa, BZ_STEP_LAYER_NORM, &full, "layer norm with a bypass");
    must_run(isa, BZ_STEP_LAYER_NORM, &s, "layer norm");
    for (size_t i = 0; i < count; ++i) {
        const double term = bypass_value(&way[i / size_t(c) * size_t(ways)], ways, c, int(i % size_t(c)));
        must_be(with[i], out[i] + term + added[i], 1e-4, "layer norm with a bypass");
    }
    const bz_softmax_step t = {int64_t(n) * h * w, c, 0.5f, x.data(), c, soft.data(), c};
    must_run(isa, BZ_STEP_SOFTMAX, &t, "softmax");
    for (size_t i = 0; i < count; i += size_t(c)) {
        double mean = 0, variance = 0, total = 0;
        for (size_t k = i; k < i + size_t(c); ++k) mean += x[k] / double(c), total += exp(0.5 * x[k]);
        for (size_t k = i; k < i + size_t(c); ++k) variance += (x[k] - mean) * (x[k] - mean) / double(c);
        for (size_t k = i; k < i + size_t(c); ++k) {
            must_be(out[k], (x[k] - mean) / sqrt(variance + 1e-5) * v[k - i], 1e-3, "layer norm");
            must_be(soft[k], exp(0.5 * x[k]) / total, 1e-5, "softmax");
        }
    }
}

// Queries, keys and values side by side in one tensor, and a bias that all windows share.
static void attention_steps(int isa) {
    const int n = between(1, 2), w = between(1, 2), heads = between(1, 3), length = between(1, 60), depth = between(1, 40);
    const size_t row = size_t(3 * heads) * size_t(depth), window = size_t(length) * row;
    std::vector<float> x = normal(size_t(n * w) * window), bias = normal(size_t(heads) * length * length);
    std::vector<float> out(size_t(n * w * heads) * length * depth);
    const bz_heads q = {x.data(), int64_t(w * window), int64_t(window), depth, int64_t(row)};
    bz_heads k = q, v = q;
    k.data += heads * depth, v.data += 2 * heads * depth;
    const int64_t own = int64_t(heads) * length * depth;
    const bz_heads to = {out.data(), w * own, own, depth, heads * depth};
    const bz_heads first = {bias.data(), 0, 0, int64_t(length) * length, length};
    const bz_attention_step s = {n, w, heads, length, length, depth, depth, 0, 0.3f, q, k, v, {first, {}}, to};
    must_run(isa, BZ_STEP_ATTENTION, &s, "attention");
    for (int item = 0; item < n * w * heads; ++item) {
        const size_t at = size_t(item / heads) * window + size_t(item % heads * depth), head = size_t(item % heads);
        for (int i = 0; i < length; ++i) {
            std::vector<double> weights(static_cast<size_t>(length));
            double total = 0, sum = 0;
            for (int j = 0; j < length; ++j) {
                double score = bias[(head * size_t(length) + size_t(i)) * size_t(length) + size_t(j)];
                for (int c = 0; c < depth; ++c)
                    score += 0.3 * x[at + size_t(i) * row + size_t(c)] * k.data[at + size_t(j) * row + size_t(c)];
                total += weights[size_t(j)] = exp(score);
            }
            for (int j = 0; j < length; ++j) sum += weights[size_t(j)] / total * v.data[at + size_t(j) * row];
            must_be(out[size_t(item / heads) * size_t(own) + size_t(i * heads * depth) + head * size_t(depth)], sum, 1e-3,
                    "attention");
        }
    }
}

static void position_steps(int isa) {
    const int n = between(1, 2), h = between(1, 9), w = between(1, 9), c = between(1, 70);
    std::vector<float> x = normal(size_t(n) * h * w * c), sums(size_t(n) * c);
    bz_pool g = {between(1, 4), between(1, 4), between(1, 3), between(1, 3), 0, 0, 0, 0};
    g.pad_h = between(0, g.kernel_h - 1), g.pad_w = between(0, g.kernel_w - 1);
    g.out_h = between(1, (h - 1 + g.pad_h) / g.stride_h + 1), g.out_w = between(1, (w - 1 + g.pad_w) / g.stride_w + 1);
    std::vector<float> out(size_t(n) * g.out_h * g.out_w * c);
    const bool average = between(0, 1);
    const bz_pool_step s = {n, c, h, w, g, average, 1, 7, between(0, 1), map_of(x, h, w, c),
                            map_of(out, g.out_h, g.out_w, c), sums.data()};
    must_run(isa, BZ_STEP_POOL, &s, "pool");
    for (size_t i = 0; i < out.size() && !s.adaptive; ++i) {
        const int channel = int(i) % c, ox = int(i) / c % g.out_w, oy = int(i) / c / g.out_w % g.out_h;
        const int image = int(i) / c / g.out_w / g.out_h;
        double sum = 0, most = -1e30;
        for (int ky = 0; ky < g.kernel_h; ++ky)
            for (int kx = 0; kx < g.kernel_w; ++kx) {
                const int iy = oy * g.stride_h - g.pad_h + ky, ix = ox * g.stride_w - g.pad_w + kx;
                if (iy < 0 || iy >= h || ix < 0 || ix >= w) continue;
                const double v = x[((size_t(image) * h + iy) * w + ix) * c + channel];
                sum += v, most = v > most ? v : most;
            }
        must_be(out[i], average ? sum / 7 : most, 1e-5, "pool");
    }
    std::vector<float> mean(size_t(n) * c), large(size_t(n) * 7 * 11 * c);
    const bz_mean_step m = {n, h, w, c, map_of(x, h, w, c), nullptr, mean.data()};
    must_run(isa, BZ_STEP_MEAN, &m, "mean");
    double total = 0;
    for (int i = 0; i < h * w; ++i) total += x[size_t(i) * c];
    must_be(mean[0], total / (h * w), 1e-5, "mean");
    for (int mode = BZ_RESIZE_BILINEAR; mode <= BZ_RESIZE_NEAREST_EXACT; ++mode) {
        const bz_resize_step r = {n, c, h, w, 7, 11, mode, 0, 0, map_of(x, h, w, c), map_of(large, 7, 11, c), sums.data()};
        must_run(isa, BZ_STEP_RESIZE, &r, "resize");
    }
}

static void linear_step(int isa) {
    const int rows = between(1, between(0, 1) ? 3 : 150), inputs = between(1, between(0, 5) ? 90 : 1200);
    const int outputs = between(1, 70);
    std::vector<float> x = normal(size_t(rows) * inputs), y(size_t(rows) * outputs), add = normal(size_t(outputs));
    std::vector<float> weights = normal(size_t(outputs) * inputs);
    std::vector<uint16_t> halves(size_t((outputs + 15) / 16) * size_t(inputs) * 16);
    const bool bf16 = between(0, 1);
    for (int o = 0; o < outputs; ++o)
        for (int k = 0; k < inputs; ++k) {
            float& weight = weights[size_t(o) * inputs + k];
            const uint16_t half = to_bf16(weight);
            halves[(size_t(o / 16) * inputs + k) * 16 + o % 16] = half;
            if (bf16) weight = from_bf16(half);
        }
    const bz_linear_step s = {rows, inputs, outputs, BZ_OP_RELU, x.data(), inputs, bf16 ? nullptr : weights.data(), inputs,
                              bf16 ? halves.data() : nullptr, add.data(), 0, 0, y.data(), outputs};
    must_run(isa, BZ_STEP_LINEAR, &s, "linear");
    for (int i = 0; i < rows * outputs; ++i) {
        const int r = i / outputs, o = i % outputs;
        double sum = add[size_t(o)];
        for (int k = 0; k < inputs; ++k) sum += double(x[size_t(r) * inputs + k]) * weights[size_t(o) * inputs + k];
        must_be(y[size_t(i)], sum < 0 ? 0 : sum, 1e-4, "linear");
    }
}

static void copy_step(int isa) {
    bz_copy_step s = {};
    s.dims = between(1, 5);
    int order[5] = {0, 1, 2, 3, 4};
    for (int i = s.dims - 1; i > 0; --i) {
        const int j = between(0, i), kept = order[i];
        order[i] = order[j], order[j] = kept;
    }
    int64_t count = 1, other = 1;
    for (int i = s.dims - 1; i >= 0; --i) s.size[i] = between(1, 21 - 3 * s.dims), s.to[i] = count, count *= s.size[i];
    for (int i = s.dims - 1; i >= 0; --i) s.from[order[i]] = other, other *= s.size[order[i]];
    std::vector<float> x = normal(size_t(count)), y(static_cast<size_t>(count));
    s.x = x.data(), s.y = y.data();
    must_run(isa, BZ_STEP_COPY, &s, "copy");
    for (int64_t i = 0; i < count; ++i) {
        int64_t from = 0, to = 0, rest = i;
        for (int d = s.dims - 1; d >= 0; rest /= s.size[d--]) from += rest % s.size[d] * s.from[d], to += rest % s.size[d] * s.to[d];
        must_be(y[size_t(to)], x[size_t(from)], 0, "copy");
    }
}

// Bits of a layer's result, with and without its float map, as input of another layer.
static void bits(int isa) {
    const bool depthwise = between(0, 1);
    Layer l = random_layer(depthwise);
    const bz_conv_shape& s = l.s;
    const bz_plane_shape& in = s.input;
    const bz_map x = map_of(l.x, in.height, in.width, in.channels);
    std::vector<uint32_t> plane(size_t(bz_plane_words(&in)));
    must(bz_pack(isa, 1, &in, &x, nullptr, nullptr, nullptr, 0, plane.data(), nullptr), "pack");
    std::vector<uint32_t> words(size_t(depthwise ? bz_depthwise_words(&s) : bz_weight_words(&s)));
    std::vector<int32_t> counts(size_t(depthwise ? bz_depthwise_counts(&s) : bz_weight_counts(&s)));
    if (depthwise) must(bz_pack_depthwise(&s, l.weights.data(), words.data(), counts.data()), "pack");
    else must(bz_pack_weights(isa, &s, l.weights.data(), words.data(), counts.data()), "pack");
    std::vector<float> out(size_t(in.images) * s.out_h * s.out_w * s.out_channels);
    const bz_plane_shape next = {in.images, s.out_h, s.out_w, s.out_channels, in.groups, between(0, 2), between(0, 2)};
    std::vector<uint32_t> made(size_t(bz_plane_words(&next)), ~0u), wanted(made.size());
    const bz_bits to = {made.data(), next, l.mul.data(), l.offset.data()};
    bz_epilogue e = {};
    e.bits = &to;
    for (int with_out = 1; with_out >= 0; --with_out) {
        e.out = with_out ? map_of(out, s.out_h, s.out_w, s.out_channels) : bz_map{};
        must((depthwise ? bz_depthwise : bz_conv)(isa, between(1, 2), &s, plane.data(), words.data(), counts.data(), &e),
             "bits");
        const bz_map result = map_of(out, s.out_h, s.out_w, s.out_channels);
        must(bz_pack(isa, 1, &next, &result, nullptr, to.mul, to.add, 0, wanted.data(), nullptr), "pack");
        if (made != wanted) {
            fprintf(stderr, "bits: other than those of the result\n");
            exit(1);
        }
        made.assign(made.size(), ~0u);
    }
}

static void steps(int isa) {
    pointwise_step(isa);
    row_steps(isa);
    attention_steps(isa);
    position_steps(isa);
    linear_step(isa);
    copy_step(isa);
}

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 50;
    for (int round = 0; round < rounds; ++round)
        for (int isa = BZ_ISA_PORTABLE; isa <= BZ_ISA_AMX; ++isa) {
            if (!bz_isa_available(isa)) continue;
            stem(isa);
            training(isa);
            steps(isa);
            bits(isa);
            const bool depthwise = round % 3 == 0;
            Layer l = random_layer(depthwise);
            const bz_conv_shape& s = l.s;
            const bz_plane_shape& in = s.input;
            const int threads = between(1, 2);
            const bz_map x = {l.x.data(), int64_t(in.height) * in.width * in.channels,
                              int64_t(in.width) * in.channels, in.channels, 1, 0};
            std::vector<uint32_t> plane(size_t(bz_plane_words(&in)));
            std::vector<float> sums(size_t(in.images) * in.channels);
            must(bz_channel_sums(isa, threads, &in, &x, sums.data()), "sums");
            must(bz_pack(isa, threads, &in, &x, nullptr, nullptr, nullptr, 0, plane.data(), sums.data()), "pack");
            const size_t outputs = size_t(in.images) * s.out_h * s.out_w * s.out_channels;
            std::vector<float> out(outputs), out_sums(size_t(in.images) * s.out_channels);
            const int ways = between(0, 2) ? between(1, 40) : between(41, 150);
            std::vector<float> bypass = normal(outputs / s.out_channels * size_t(ways));
            std::vector<int32_t> ints(outputs);
            bz_epilogue e = {};
            e.out = {out.data(), int64_t(s.out_h) * s.out_w * s.out_channels, int64_t(s.out_w) * s.out_channels,
                     s.out_channels, 1, 0};
            e.sums = out_sums.data();
            bz_epilogue full = e;
            full.first.kind = BZ_ACT_PIECEWISE;
            full.bypass = {bypass.data(), int64_t(s.out_h) * s.out_w * ways, int64_t(s.out_w) * ways, ways, 1, 0};
            full.bypass_channels = ways;
            full.residual = e.out;
            bz_epilogue values = e;
            values.mul = l.mul.data(), values.offset = l.offset.data(), values.midpoint = l.midpoint;
            // maps of another size, and a tail whose output ends with its buffer
            const bz_resize resize = {between(1, 9), between(1, 9), between(0, 1)};
            const int tail_channels = between(1, 90), padded = (tail_channels + 15) / 16 * 16;
            const int64_t small = int64_t(resize.height) * resize.width;
            std::vector<float> small_x = normal(size_t(small * in.images * in.channels));
            std::vector<float> small_way = normal(size_t(small * in.images * ways));
            std::vector<float> tail_out(outputs / s.out_channels * tail_channels), tail_add = normal(size_t(padded));
            std::vector<float> tail_weights = normal(size_t(padded) * s.out_channels);
            const bz_map map = {small_x.data(), small * in.channels, int64_t(resize.width) * in.channels, in.channels,
                                1, 0};
            std::vector<uint32_t> other(plane.size());
            must(bz_pack(isa, threads, &in, &map, &resize, nullptr, nullptr, 0, other.data(), sums.data()), "resized");
            bz_epilogue tailed = full;
            tailed.residual = {};
            tailed.bypass = {small_way.data(), small * ways, int64_t(resize.width) * ways, ways, 1, 0};
            tailed.bypass_resize = resize;
            tailed.tail = {tail_weights.data(), tail_add.data(), tail_channels,
                           {tail_out.data(), int64_t(s.out_h) * s.out_w * tail_channels,
                            int64_t(s.out_w) * tail_channels, tail_channels, 1, 0}};
            bz_epilogue full_values = full;
            full_values.offset = l.offset.data();
            const double values_slack = 1e-4 * s.kernel_h * s.kernel_w * (depthwise ? 1 : in.channels);
            if (depthwise) {
                std::vector<uint32_t> words(size_t(bz_depthwise_words(&s)));
                std::vector<int32_t> counts(size_t(bz_depthwise_counts(&s)));
                must(bz_pack_depthwise(&s, l.weights.data(), words.data(), counts.data()), "pack depthwise");
                must(bz_depthwise_int(isa, threads, &s, plane.data(), words.data(), counts.data(), ints.data()), "int");
                must(bz_depthwise(isa, threads, &s, plane.data(), words.data(), counts.data(), &full), "full");
                must(bz_depthwise(isa, threads, &s, plane.data(), words.data(), counts.data(), &full_values), "full");
                bz_epilogue resized = tailed;
                resized.tail = {};
                must(bz_depthwise(isa, threads, &s, plane.data(), words.data(), counts.data(), &resized), "resized");
                must(bz_depthwise(isa, threads, &s, plane.data(), words.data(), counts.data(), &values), "values");
                check(l, depthwise, kValues, out.data(), values_slack, "values");
                must(bz_depthwise(isa, threads, &s, plane.data(), words.data(), counts.data(), &e), "depthwise");
            } else {
                std::vector<uint32_t> words(size_t(bz_weight_words(&s)));
                std::vector<int32_t> counts(size_t(bz_weight_counts(&s)));
                must(bz_pack_weights(isa, &s, l.weights.data(), words.data(), counts.data()), "pack weights");
                must(bz_conv_int(isa, threads, &s, plane.data(), words.data(), counts.data(), ints.data()), "int");
                must(bz_conv(isa, threads, &s, plane.data(), words.data(), counts.data(), &full), "full");
                must(bz_conv(isa, threads, &s, plane.data(), words.data(), counts.data(), &full_values), "full");
                must(bz_conv(isa, threads, &s, other.data(), words.data(), counts.data(), &tailed), "tail");
                must(bz_conv(isa, threads, &s, plane.data(), words.data(), counts.data(), &values), "values");
                check(l, depthwise, kValues, out.data(), values_slack, "values");
                must(bz_conv(isa, threads, &s, plane.data(), words.data(), counts.data(), &e), "conv");
            }
            layer(isa, s, depthwise ? BZ_LAYER_DEPTHWISE : round % 2 ? BZ_LAYER_SCALED : BZ_LAYER_CONV, l.weights,
                  threads);
            check(l, depthwise, kPlain, out.data(), 0, "floats");
            for (size_t i = 0; i < outputs; ++i) out[i] = float(ints[i]);
            check(l, depthwise, kPlain, out.data(), 0, "integers");
            if (!depthwise && in.groups == 1 && in.channels > 32) {
                bz_conv_shape grouped = s;
                grouped.scale_groups = between(2, (in.channels + 31) / 32);
                const std::vector<float> scales = normal(size_t(in.images * grouped.scale_groups));
                std::vector<uint32_t> words(size_t(bz_weight_words(&grouped)));
                std::vector<int32_t> counts(size_t(bz_weight_counts(&grouped)));
                must(bz_pack_weights(isa, &grouped, l.weights.data(), words.data(), counts.data()), "pack groups");
                for (bz_epilogue scaled : {e, full, tailed}) {
                    scaled.sample_scale = scales.data();
                    must(bz_conv(isa, threads, &grouped, plane.data(), words.data(), counts.data(), &scaled), "groups");
                }
            }
            if (depthwise) continue;
            std::vector<uint16_t> pieces(size_t(bz_scaled_words(isa, &s)));
            must(bz_pack_scaled(isa, &s, l.weights.data(), pieces.data()), "pack scaled");
            for (int exact = 0; exact < 2; ++exact) {
                must(bz_conv_scaled(isa, threads, &s, plane.data(), pieces.data(), l.alpha.data(), exact, &e), "scaled");
                const double slack = exact ? 1e-2 : 0.01 * s.kernel_h * s.kernel_w * (in.channels / 5 + 1);
                check(l, false, kScaled, out.data(), slack, "scaled");
                must(bz_conv_scaled(isa, threads, &s, other.data(), pieces.data(), l.alpha.data(), exact, &tailed),
                     "tail");
            }
        }
    printf("%d rounds\n", rounds);
    return 0;
}
