#include "checks.h"

namespace bz {
namespace {

constexpr int32_t kLargest = 1 << 24;  // of any one size: products of two stay within 64 bits by far

bool size(int32_t value, int32_t low) { return value >= low && value <= kLargest; }

// Positions read along one axis, in input coordinates, stay within [-border, size + border).
bool reaches(int32_t out, int32_t kernel, int32_t stride, int32_t pad, int32_t dilation, int32_t in, int32_t border) {
    if (kernel == 0) return true;
    const int64_t last = int64_t(out - 1) * stride - pad + int64_t(kernel - 1) * dilation;
    return -int64_t(pad) >= -int64_t(border) && last < int64_t(in) + border;
}

bool good_map(const bz_map& m) { return m.channel == 1 && m.image >= 0 && m.row >= 0 && m.pixel >= 0; }

bool good_tail(const bz_tail& t) { return t.channels == 0 || (size(t.channels, 1) && t.channels < 1 << 20 && t.weights); }

bool good_bits(const bz_bits* b, const bz_conv_shape& s) {
    if (!b) return true;
    const bz_plane_shape& to = b->shape;
    return b->plane && good_plane(&to) && to.images == s.input.images && to.height == s.out_h && to.width == s.out_w &&
           to.channels == s.out_channels;
}

// Each window of a max-pool holds at least one of `in` positions.
bool windows(int32_t out, int32_t kernel, int32_t stride, int32_t pad, int32_t in) {
    return size(out, 1) && size(kernel, 1) && size(stride, 1) && size(pad, 0) && pad < kernel &&
           int64_t(out - 1) * stride - pad < in;
}

}  // namespace

bool good_activation(const bz_activation& a) { return a.kind >= BZ_ACT_NONE && a.kind <= BZ_ACT_CLAMP; }

bool good_plane(const bz_plane_shape* s) {
    return s && size(s->images, 1) && size(s->height, 1) && size(s->width, 1) && size(s->channels, 1) &&
           size(s->groups, 1) && s->channels % s->groups == 0 && size(s->border_h, 0) && size(s->border_w, 0);
}

bool good_conv(const bz_conv_shape* s) {
    if (!s || !good_plane(&s->input) || !size(s->out_channels, 1) || s->out_channels % s->input.groups) return false;
    if (!size(s->kernel_h, 0) || !size(s->kernel_w, 0) || !size(s->stride_h, 1) || !size(s->stride_w, 1)) return false;
    if (!size(s->dilation_h, 1) || !size(s->dilation_w, 1) || !size(s->out_h, 1) || !size(s->out_w, 1)) return false;
    if (int64_t(s->kernel_h) * s->kernel_w > kLargest) return false;
    const bz_plane_shape& in = s->input;
    const int32_t scales = s->scale_groups;
    if (scales < 0 || (scales > 1 && (in.groups > 1 || scales > bz_group_words(in)))) return false;
    if (s->kernel_h == 0 || s->kernel_w == 0) return true;
    return reaches(s->out_h, s->kernel_h, s->stride_h, s->pad_top, s->dilation_h, in.height, in.border_h) &&
           reaches(s->out_w, s->kernel_w, s->stride_w, s->pad_left, s->dilation_w, in.width, in.border_w);
}

bool good_depthwise(const bz_conv_shape* s) {
    return good_conv(s) && s->input.groups == 1 && s->out_channels == s->input.channels && bz_scale_groups(*s) == 1;
}

bool good_resize(const bz_resize* r) { return !r || (size(r->height, 1) && size(r->width, 1)); }

bool good_epilogue(const bz_conv_shape& s, const bz_epilogue* e) {
    if (!e || !good_tail(e->tail)) return false;
    const bz_map& out = e->tail.channels ? e->tail.out : e->out;
    if (!good_bits(e->bits, s) || (e->bits && e->tail.channels)) return false;
    if (out.bf16 && (e->bits || e->tail.channels)) return false;
    if (out.data ? !good_map(out) : !e->bits) return false;
    if (!good_activation(e->first) || !good_activation(e->second)) return false;
    if (e->bypass_resize.height && !good_resize(&e->bypass_resize)) return false;
    if (e->bypass.data && (!good_map(e->bypass) || !size(e->bypass_channels, 1))) return false;
    if (e->residual.data && !good_map(e->residual)) return false;
    if (bz_scale_groups(s) > 1 && (!e->sample_scale || e->offset || e->midpoint != 0)) return false;
    return s.out_channels >= 1;
}

bool good_stem(const bz_conv_shape* s, const bz_map* x, const bz_pool* pool, const bz_epilogue* e) {
    if (!good_conv(s) || bz_taps(*s) == 0 || s->input.groups != 1 || bz_scale_groups(*s) > 1) return false;
    if (s->dilation_h != 1 || s->dilation_w != 1) return false;
    if (!x || !x->data || x->image < 0 || x->row < 0 || x->pixel < 0 || x->channel < 0 || x->bf16) return false;
    if (pool && (!windows(pool->out_h, pool->kernel_h, pool->stride_h, pool->pad_h, s->out_h) ||
                 !windows(pool->out_w, pool->kernel_w, pool->stride_w, pool->pad_w, s->out_w)))
        return false;
    if (!good_epilogue(*s, e) || e->sample_scale || e->offset || e->midpoint != 0) return false;
    return !e->bypass.data && !e->residual.data && !e->tail.channels && !e->bits;
}

}  // namespace bz
