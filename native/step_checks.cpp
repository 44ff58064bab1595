// Checks of a step's sizes, strides and pointers.
#include "checks.h"
#include "steps.h"

namespace bz {
namespace {

constexpr int32_t kLargest = 1 << 24;  // of any one size, as in checks.cpp

bool size(int32_t value) { return value >= 1 && value <= kLargest; }

bool sizes(int32_t images, int32_t height, int32_t width, int32_t channels) {
    return size(images) && size(height) && size(width) && size(channels);
}

bool good_map(const bz_map& m) {
    return m.data && m.channel == 1 && !m.bf16 && m.image >= 0 && m.row >= 0 && m.pixel >= 0;
}

// One that is written: no two positions share memory.
bool good_out(const bz_map& m, int32_t images, int32_t height, int32_t width, int32_t channels) {
    return good_map(m) && (width == 1 || m.pixel >= channels) && (height == 1 || m.row >= channels) &&
           (images == 1 || m.image >= channels);
}

// Every window holds at least one of `in` positions.
bool windows(int32_t out, int32_t kernel, int32_t stride, int32_t pad, int32_t in) {
    return size(out) && size(kernel) && size(stride) && pad >= 0 && pad < kernel && int64_t(out - 1) * stride - pad < in;
}

bool good_heads(const bz_heads& m) { return m.data && m.image >= 0 && m.window >= 0 && m.head >= 0 && m.row >= 0; }

bool good_register(int32_t r) { return r >= 0 && r < BZ_REGISTERS; }

bool reads_two(int32_t op) { return op <= BZ_OP_MAX; }

bool good_instruction(const bz_instruction& i) {
    if (i.op < BZ_OP_ADD || i.op > BZ_OP_COPY || !good_register(i.to) || !good_register(i.a)) return false;
    return !reads_two(i.op) || good_register(i.b);
}

}  // namespace

bool good_step(const bz_pointwise_step* s) {
    if (!s || !sizes(s->images, s->height, s->width, s->channels)) return false;
    if (s->operands < 1 || s->operands > BZ_REGISTERS || s->instructions < 0 || s->instructions > 1024) return false;
    if (s->results < 1 || s->results > BZ_REGISTERS) return false;
    if (!s->operand || !s->result || (s->instructions && !s->instruction)) return false;
    for (int32_t i = 0; i < s->operands; ++i) {
        const bz_map& m = s->operand[i];
        const bool strides = m.image >= 0 && m.row >= 0 && m.pixel >= 0 && (m.channel == 0 || m.channel == 1) && !m.bf16;
        if (!m.data || !strides) return false;
    }
    uint32_t written = (1u << s->operands) - 1;  // registers that hold something
    const auto holds = [&](int32_t r) { return (written >> r & 1) != 0; };
    for (int32_t i = 0; i < s->instructions; ++i) {
        const bz_instruction& some = s->instruction[i];
        if (!good_instruction(some) || !holds(some.a) || (reads_two(some.op) && !holds(some.b))) return false;
        written |= 1u << some.to;
    }
    for (int32_t i = 0; i < s->results; ++i) {
        const bz_result& r = s->result[i];
        if (!good_register(r.source) || !holds(r.source)) return false;
        if (!good_out(r.out, s->images, s->height, s->width, s->channels)) return false;
    }
    return true;
}

bool good_step(const bz_layer_norm_step* s) {
    if (!s || !sizes(s->images, s->height, s->width, s->channels) || !good_map(s->x) || !(s->eps >= 0)) return false;
    if (!good_activation(s->first) || !good_activation(s->second)) return false;
    if (s->bypass.data && (!good_map(s->bypass) || !size(s->bypass_channels))) return false;
    if (s->residual.data && !good_map(s->residual)) return false;
    return good_out(s->out, s->images, s->height, s->width, s->channels);
}

bool good_step(const bz_pool_step* s) {
    if (!s || !sizes(s->images, s->height, s->width, s->channels) || s->divisor < 0) return false;
    const bz_pool& g = s->geometry;
    if (s->adaptive ? !size(g.out_h) || !size(g.out_w)
                    : !windows(g.out_h, g.kernel_h, g.stride_h, g.pad_h, s->height) ||
                          !windows(g.out_w, g.kernel_w, g.stride_w, g.pad_w, s->width))
        return false;
    return good_map(s->x) && good_out(s->out, s->images, g.out_h, g.out_w, s->channels);
}

bool good_step(const bz_mean_step* s) {
    return s && sizes(s->images, s->height, s->width, s->channels) && (s->sums || good_map(s->x)) && s->out;
}

bool good_step(const bz_linear_step* s) {
    if (!s || !size(s->rows) || !size(s->inputs) || !size(s->outputs) || !s->x || !s->y) return false;
    if (!s->weights && !s->bf16_weights) return false;
    if (s->x_row < 0 || s->weights_row < 0 || (s->rows > 1 && s->y_row < s->outputs)) return false;
    return s->op >= BZ_OP_NEG && s->op <= BZ_OP_COPY && s->op != BZ_OP_PIECEWISE && s->op != BZ_OP_AFFINE;
}

bool good_step(const bz_copy_step* s) {
    if (!s || s->dims < 0 || s->dims > BZ_COPY_DIMS || !s->y) return false;
    for (int32_t i = 0; i < s->dims; ++i)
        if (s->size[i] < 1 || s->to[i] < 0 || (s->x && s->from[i] < 0)) return false;
    return true;
}

bool good_step(const bz_resize_step* s) {
    if (!s || !sizes(s->images, s->height, s->width, s->channels) || !size(s->out_h) || !size(s->out_w)) return false;
    if (s->mode < BZ_RESIZE_BILINEAR || s->mode > BZ_RESIZE_NEAREST_EXACT) return false;
    if (!(s->step_h >= 0) || !(s->step_w >= 0)) return false;
    return good_map(s->x) && good_out(s->out, s->images, s->out_h, s->out_w, s->channels);
}

bool good_step(const bz_softmax_step* s) {
    return s && s->rows >= 1 && size(s->length) && s->x && s->y && s->x_row >= 0 &&
           (s->rows == 1 || s->y_row >= s->length);
}

bool good_step(const bz_attention_step* s) {
    if (!s || !sizes(s->images, s->windows, s->heads, s->rows) || !sizes(s->columns, s->depth, s->values, 1)) return false;
    if (int64_t(s->images) * s->windows > kLargest) return false;
    for (const bz_heads& bias : s->bias)
        if (bias.data && !good_heads(bias)) return false;
    const bz_heads& out = s->out;
    const auto apart = [&](int32_t count, int64_t stride) { return count == 1 || stride >= s->values; };
    return good_heads(s->q) && good_heads(s->k) && good_heads(s->v) && good_heads(out) && apart(s->rows, out.row) &&
           apart(s->heads, out.head) && apart(s->windows, out.window) && apart(s->images, out.image);
}

}  // namespace bz
