// Depthwise convolution with vertical counters: bit b of the counts of 32 channels is one word.
//
// Adding a tap to all channels of a vector is a few logic operations; eight taps at a time go through a tree of full
// adders. The counters become bytes once per position.
#pragma once

#include "conv.h"

namespace bz {
namespace BZ_NS {

constexpr int kMostTaps = 255;

struct Taps {
    const uint32_t *plane[kMostTaps], *weights[kMostTaps];
    int count;
};

template <int B>
BZ_INLINE void add_bit(Words (&counter)[B], int from, Words x) {
    BZ_UNROLL for (int b = 0; b < B; ++b)
        if (b >= from) {
            const Words carry = counter[b] & x;
            counter[b] ^= x;
            x = carry;
        }
}

// The mismatches of kLanes words, `i` words from each tap's start, `w` words from each weight's.
template <int B>
BZ_INLINE void count_vector(const Taps& taps, int64_t i, int w, Words (&counter)[B]) {
    BZ_UNROLL for (int b = 0; b < B; ++b) counter[b] = Words{};
    int t = 0;
    const auto tap = [&](int k) __attribute__((always_inline)) {
        return load<Words>(taps.plane[k] + i) ^ load<Words>(taps.weights[k] + w);
    };
    if constexpr (B >= 4)
        for (; t + 8 <= taps.count; t += 8) {
            Words two[4], four[2], eight;
            BZ_UNROLL for (int q = 0; q < 4; ++q)
                full_add(two[q], counter[0], counter[0], tap(t + 2 * q), tap(t + 2 * q + 1));
            BZ_UNROLL for (int q = 0; q < 2; ++q)
                full_add(four[q], counter[1], counter[1], two[2 * q], two[2 * q + 1]);
            full_add(eight, counter[2], counter[2], four[0], four[1]);
            add_bit<B>(counter, 3, eight);
        }
    if constexpr (B >= 2)
        for (; t + 2 <= taps.count; t += 2) {
            Words two;
            full_add(two, counter[0], counter[0], tap(t), tap(t + 1));
            add_bit<B>(counter, 1, two);
        }
    for (; t < taps.count; ++t) add_bit<B>(counter, 0, tap(t));
}

// kLanes words of each counter bit to 32 * kLanes byte counts.
template <int B>
BZ_INLINE void to_bytes(const Words (&counter)[B], uint8_t* bytes) {
    uint32_t bits[B][kLanes];
    BZ_UNROLL for (int b = 0; b < B; ++b) store(bits[b], counter[b]);
#if BZ_VEC_BYTES == 64
    for (int q = 0; q < kLanes / 2; ++q) {
        __m512i sum = _mm512_setzero_si512();
        BZ_UNROLL for (int b = 0; b < B; ++b) {
            uint64_t mask;
            memcpy(&mask, &bits[b][2 * q], sizeof mask);
            sum = _mm512_mask_add_epi8(sum, mask, sum, _mm512_set1_epi8(char(1u << b)));
        }
        _mm512_storeu_si512(bytes + 64 * q, sum);
    }
#elif BZ_VEC_BYTES == 32
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3,
                                            3, 3, 3, 3, 3, 3, 3);
    const __m256i place = _mm256_set1_epi64x(int64_t(0x8040201008040201ull));
    for (int q = 0; q < kLanes; ++q) {
        __m256i sum = _mm256_setzero_si256();
        BZ_UNROLL for (int b = 0; b < B; ++b) {
            __m256i x = _mm256_shuffle_epi8(_mm256_set1_epi32(int(bits[b][q])), spread);
            x = _mm256_cmpeq_epi8(_mm256_and_si256(x, place), place);
            sum = _mm256_or_si256(sum, _mm256_and_si256(x, _mm256_set1_epi8(char(1u << b))));
        }
        _mm256_storeu_si256((__m256i*)(bytes + 32 * q), sum);
    }
#else
    // Eight bits to eight bytes: copies of the byte, each keeps its own bit, which is then moved down.
    for (int q = 0; q < kLanes; ++q)
        for (int k = 0; k < 4; ++k) {
            uint64_t sum = 0;
            BZ_UNROLL for (int b = 0; b < B; ++b) {
                uint64_t x = (bits[b][q] >> (8 * k) & 0xffu) * 0x0101010101010101ull & 0x8040201008040201ull;
                x = (x + 0x7f7f7f7f7f7f7f7full) | x;  // the top bit of each byte: whether it is not 0
                sum |= (x >> 7 & 0x0101010101010101ull) << b;
            }
            for (int c = 0; c < 8; ++c) bytes[32 * q + 8 * k + c] = uint8_t(sum >> (8 * c));
        }
#endif
}

template <int B>
static void count_row(const Taps& taps, int64_t length, int pixel, uint8_t* bytes) {
    int w = 0;
    for (int64_t i = 0; i < length; i += kLanes) {
        Words counter[B];
        count_vector<B>(taps, i, w, counter);
        to_bytes<B>(counter, bytes + 32 * i);
        w = (w + kLanes) % pixel;
    }
}

typedef void (*CountRow)(const Taps&, int64_t, int, uint8_t*);
static const CountRow kCountRows[8] = {count_row<1>, count_row<2>, count_row<3>, count_row<4>,
                                       count_row<5>, count_row<6>, count_row<7>, count_row<8>};

struct DepthwisePlan {
    bz_conv_shape s;
    const uint32_t *plane, *words;
    const bz_epilogue* e;
    int32_t* out_int;
    Parameters parameters;
    float* partial;
    Border border;
    Values values;
    const uint32_t* zeros;  // weights that count +1 of the activations, if there are values
    Resizer resizer;        // of the bypass, if that is of another size
};

static int depthwise_row(const DepthwisePlan& p, int64_t item) {
    const bz_conv_shape& s = p.s;
    const int pixel = bz_pixel_words(s.input), channels = s.out_channels, count = bz_taps(s);
    const int64_t n = item / s.out_h, y = item % s.out_h, length = int64_t(s.out_w) * pixel;
    const bool gathered = s.stride_w > 1;
    const size_t row = size_t(length + BZ_SLACK), copies = gathered ? row * size_t(count) : 0;
    const size_t counts = p.values.used ? 2 : 1;
    // values that only become bits
    const int64_t line = p.e && !p.e->out.data ? s.out_w * int64_t(p.parameters.padded) : 0;
    const int64_t way = p.resizer.rows ? s.out_w * int64_t(p.resizer.channels) : 0;  // the bypass of this line
    const size_t words = row * 8 * counts + copies;
    uint32_t* memory = static_cast<uint32_t*>(malloc((words + size_t(line + way)) * sizeof(uint32_t)));
    if (!memory) return BZ_NO_MEMORY;
    bz_epilogue e = {};
    if (p.e) e = *p.e;
    float* const floats = reinterpret_cast<float*>(memory + words);
    if (line) e.out = {floats, 0, 0, p.parameters.padded, 1, 0};
    if (way) {
        resize_run(p.resizer, n, y, 0, s.out_w, floats + line, p.resizer.channels);
        e.bypass = {floats + line, 0, 0, p.resizer.channels, 1, 0};
    }
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(memory);
    uint8_t* const ones = bytes + (counts - 1) * row * 32;
    Taps taps;
    taps.count = count;
    const int64_t start = first_tap(s, n, y, 0);
    for (int t = 0; t < count; ++t) {
        const int ky = t / s.kernel_w, kx = t % s.kernel_w;
        const uint32_t* from = p.plane + start + ky * s.dilation_h * bz_row_words(s.input) +
                               int64_t(kx) * s.dilation_w * pixel;
        taps.weights[t] = p.words + int64_t(t) * (pixel + BZ_SLACK);
        taps.plane[t] = from;
        if (!gathered) continue;
        uint32_t* to = memory + row * 8 * counts + row * size_t(t);
        taps.plane[t] = to;
        for (int64_t x = 0; x < s.out_w; ++x, to += pixel)
            for (int w = 0; w < pixel; ++w) to[w] = from[x * s.stride_w * pixel + w];
        memset(to, 0, BZ_SLACK * sizeof *to);
    }
    int bits = 1;
    while (count >> bits) ++bits;
    kCountRows[bits - 1](taps, length, pixel, bytes);
    if (p.values.used) {
        for (int t = 0; t < count; ++t) taps.weights[t] = p.zeros;
        kCountRows[bits - 1](taps, length, pixel, ones);
    }
    // Few positions at a time, so that a position's outputs are written one after the other.
    const int64_t run = channels <= kBlock ? s.out_w : 8;
    for (int64_t x0 = 0; x0 < s.out_w; x0 += run)
        for (int first = 0; first < channels; first += kBlock) {
            const int64_t x1 = x0 + run < s.out_w ? x0 + run : s.out_w;
            const Channels block = channels_of(p.parameters, p.e, 0, first, kBlock);
            const SumsOfLine<uint8_t> of_line = {p.border, y, first, bytes + x0 * pixel * 32 + first, x0, pixel * 32};
            if (p.e) {
                float* const sums = p.partial ? p.partial + item * p.parameters.padded + first : nullptr;
                if (p.values.used) {
                    const WindowSumsOfChannels window_sums = {ones + x0 * pixel * 32 + first, p.border.taps, x0,
                                                              pixel * 32};
                    finish(block, p.parameters, e,
                           ValueSumsOfLine<uint8_t, WindowSumOfChannels, WindowSumsOfChannels>{of_line, p.values,
                                                                                               window_sums},
                           n, y, x0, x1, sums);
                    continue;
                }
                finish(block, p.parameters, e, of_line, n, y, x0, x1, sums);
                continue;
            }
            int32_t* out = p.out_int + ((n * s.out_h + y) * s.out_w + x0) * channels + first;
            for (int64_t x = x0; x < x1; ++x, out += channels) {
                const Sums<uint8_t> of_position = of_line(x);
                for (int i = 0; i < block.count; ++i) out[i] = of_position.base[i] - 2 * of_position.mismatches[i];
            }
        }
    if (e.bits) put_bits(*e.bits, {n, y, 0, s.out_w}, at(e.out, n, y, 0), e.out.pixel);
    free(memory);
    return BZ_OK;
}

static int depthwise(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words,
                     const int32_t* counts, const bz_epilogue* e, int32_t* out_int) {
    if (bz_taps(s) > kMostTaps) return BZ_UNSUPPORTED;
    DepthwisePlan p = {s, plane, words, e, out_int, {}, nullptr, {}, {}, nullptr, {}};
    const int padded = bz_pixel_words(s.input) * 32;
    int status = make_border(p.border, s, counts, 1, padded);
    if (status == BZ_OK) status = take_parameters(p.parameters, s, e, padded);
    uint32_t* zeros = nullptr;
    if (status == BZ_OK && is_step(e)) midpoint_base(p.border, s, *e, counts);
    if (status == BZ_OK && has_values(e)) {
        status = take_values(p.values, p.parameters, s, *e, p.border, counts, 1);
        p.zeros = zeros = static_cast<uint32_t*>(calloc(size_t(padded / 32 + BZ_SLACK), sizeof(uint32_t)));
        if (!zeros) status = BZ_NO_MEMORY;
    }
    if (status == BZ_OK) status = make_bypass_resizer(p.resizer, s, e);
    const int64_t items = int64_t(s.input.images) * s.out_h;
    const bool summed = e && e->sums;
    if (summed) p.partial = static_cast<float*>(calloc(size_t(items) * size_t(padded), sizeof(float)));
    if (status == BZ_OK && (!summed || p.partial)) {
        if (e && e->bits) clear_border(*e->bits);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(max : status) if (threads > 1)
        for (int64_t item = 0; item < items; ++item) {
            const int done = depthwise_row(p, item);
            if (done > status) status = done;
            if (p.parameters.past) settle();
        }
        if (summed && status == BZ_OK)
            reduce(p.partial, s.input.images, s.out_h, 1, s.out_channels, padded, e->sums);
    } else {
        status = BZ_NO_MEMORY;
    }
    free(p.resizer.rows);
    free(p.partial);
    free(zeros);
    free(p.values.memory);
    free(p.parameters.memory);
    free(p.border.memory);
    return status;
}

}  // namespace BZ_NS
}  // namespace bz
