// Pointwise steps: a chunk of positions at a time goes through all instructions, on runs of floats that stay in the
// first cache.
//
// In a chunk every operand is one run of floats. A dense map is read where it lies, slices are gathered, and what is
// the same for many positions is repeated once and kept. A result whose map is dense is written where it belongs by the
// last instruction that makes it.
#pragma once

#include "ops.h"
#include "runs.h"

namespace bz {
namespace BZ_NS {

constexpr int kVectorArrays = 4;

struct PointwisePlan {
    const bz_pointwise_step& s;
    bz_map operand[BZ_REGISTERS];
    Runs runs;
    int64_t channels;       // of a position; neighbouring channels and positions are one if all maps are dense
    int64_t chunk, part;    // positions, channels at a time; one of them is all or 1
    int64_t stride;         // floats of a buffer
    int buffers;
    int operand_buffer[BZ_REGISTERS], register_buffer[BZ_REGISTERS];  // or -1
    int vector_buffer;      // the first of the instructions' vectors
    bool dense_result[BZ_REGISTERS];
    int direct[1024];       // of an instruction: the result that it writes, or -1
    float* partial[BZ_REGISTERS];
};

BZ_INLINE bool varies(const bz_map& m) { return m.pixel != 0; }

// One thread's buffers, and what the operands' buffers hold.
struct PointwiseState {
    float* memory;
    const float* kept[BZ_REGISTERS];
    const float** vectors;  // [instructions][4]
};

// to[p][c] = from[p * pixel + c * channel]
static void gather(float* to, const float* from, int64_t pixel, int64_t channel, int64_t positions, int64_t channels) {
    if (channel == 1) {
        if (channels < 16)
            for (int64_t p = 0; p < positions; ++p)
                for (int64_t c = 0; c < channels; ++c) to[p * channels + c] = from[p * pixel + c];
        else
            for (int64_t p = 0; p < positions; ++p)
                memcpy(to + p * channels, from + p * pixel, sizeof(float) * size_t(channels));
        return;
    }
    for (int64_t p = 0; p < positions; ++p) {
        const float value = from[p * pixel];
        for (int64_t c = 0; c < channels; ++c) to[p * channels + c] = value;
    }
}

static void scatter(float* to, int64_t pixel, const float* from, int64_t positions, int64_t channels) {
    if (channels < 16)
        for (int64_t p = 0; p < positions; ++p)
            for (int64_t c = 0; c < channels; ++c) to[p * pixel + c] = from[p * channels + c];
    else
        for (int64_t p = 0; p < positions; ++p)
            memcpy(to + p * pixel, from + p * channels, sizeof(float) * size_t(channels));
}

// Positions [x, x + count) of a line, channels [first, first + some).
static void pointwise_chunk(const PointwisePlan& p, PointwiseState& state, const Piece& piece, int64_t item, int64_t x,
                            int64_t count, int64_t first, int64_t some) {
    const bz_pointwise_step& s = p.s;
    const float* reg[BZ_REGISTERS] = {};
    const auto buffer = [&](int i) { return state.memory + i * p.stride; };
    for (int i = 0; i < s.operands; ++i) {
        const bz_map& m = p.operand[i];
        const float* const from = at(m, piece.image, piece.line, x) + first * m.channel;
        if (p.operand_buffer[i] < 0) {
            reg[i] = from;
            continue;
        }
        float* const to = buffer(p.operand_buffer[i]);
        reg[i] = to;
        if (varies(m)) {
            gather(to, from, m.pixel, m.channel, count, some);
        } else if (state.kept[i] != from) {  // a whole chunk: the one at hand may be a shorter one
            gather(to, from, 0, m.channel, p.chunk, m.channel ? some : p.part);
            state.kept[i] = from;
        }
    }
    float* out[BZ_REGISTERS];
    for (int i = 0; i < s.results; ++i) out[i] = at(s.result[i].out, piece.image, piece.line, x) + first;
    for (int i = 0; i < s.instructions; ++i) {
        const bz_instruction& op = s.instruction[i];
        float* const to = p.direct[i] >= 0 ? out[p.direct[i]] : buffer(p.register_buffer[op.to]);
        const float* v[kVectorArrays];
        for (int k = 0; k < kVectorArrays; ++k) {
            v[k] = state.vectors[i * kVectorArrays + k];
            if (v[k] && p.chunk == 1) v[k] += first;
        }
        run_op(op.op, to, reg[op.a], reg[op.b], v, op.p, op.q, count * some);
        reg[op.to] = to;
    }
    for (int i = 0; i < s.results; ++i) {
        const bz_result& r = s.result[i];
        const float* const values = reg[r.source];
        if (r.sums) add_positions(p.partial[i] + item * p.channels + first, values, some, count, some);
        if (values != out[i]) scatter(out[i], p.dense_result[i] ? some : r.out.pixel, values, count, some);
    }
}

static void pointwise_run(const PointwisePlan& p, PointwiseState& state, int64_t item) {
    const Piece piece = run_of(p.runs, item);
    for (int64_t x = piece.begin; x < piece.end; x += p.chunk) {
        const int64_t count = x + p.chunk < piece.end ? p.chunk : piece.end - x;
        for (int64_t first = 0; first < p.channels; first += p.part)
            pointwise_chunk(p, state, piece, item, x, count, first,
                            first + p.part < p.channels ? p.part : p.channels - first);
    }
}

BZ_INLINE bool dense(const bz_map& m, int64_t channels) { return m.channel == 1 && m.pixel == channels; }

// Whether neither channels nor positions matter: dense maps and single numbers.
static bool is_flat(const PointwisePlan& p) {
    const bz_pointwise_step& s = p.s;
    for (int i = 0; i < s.operands; ++i) {
        const bz_map& m = p.operand[i];
        const bool number = m.channel == 0 && m.pixel == 0 && m.row == 0 && m.image == 0;
        if (!number && !dense(m, s.channels)) return false;
    }
    for (int i = 0; i < s.instructions; ++i)
        for (int k = 0; k < kVectorArrays; ++k)
            if (s.instruction[i].v[k]) return false;
    for (int i = 0; i < s.results; ++i)
        if (s.result[i].sums || !dense(s.result[i].out, s.channels)) return false;
    return true;
}

// Whether instruction i may write the map of result r at once: nobody reads its register or memory's old values later.
static bool writes_directly(const bz_pointwise_step& s, int i, int r) {
    if (s.instruction[i].to != s.result[r].source) return false;
    const float* const out = s.result[r].out.data;
    uint32_t written = 0;
    for (int j = 0; j <= i; ++j) written |= 1u << s.instruction[j].to;
    const auto reads = [&](int32_t k) {
        return k < s.operands && !(written >> k & 1) && s.operand[k].data == out;
    };
    for (int j = i + 1; j < s.instructions; ++j) {
        const bz_instruction& later = s.instruction[j];
        if (later.to == s.result[r].source || reads(later.a) || (later.op <= BZ_OP_MAX && reads(later.b))) return false;
        written |= 1u << later.to;
    }
    for (int k = 0; k < s.results; ++k)
        if (reads(s.result[k].source)) return false;
    return true;
}

static void choose_chunk(PointwisePlan& p) {
    const bz_pointwise_step& s = p.s;
    const bz_map* maps[2 * BZ_REGISTERS];
    int count = 0;
    for (int i = 0; i < s.operands; ++i) {
        p.operand[i] = s.operand[i];
        if (s.channels == 1 && p.operand[i].pixel) p.operand[i].channel = 1;  // a map as any other
        maps[count++] = &p.operand[i];
    }
    bool summed = false;
    for (int i = 0; i < s.results; ++i) maps[count++] = &s.result[i].out, summed = summed || s.result[i].sums;
    // all runs that an instruction reads or writes fit the first cache, most often
    int64_t floats = s.operands + s.results > 6 ? 512 : 1024;
    p.channels = s.channels;
    p.runs = make_runs(s.images, s.height, s.width, maps, count, !summed, 1);
    const bool flat = is_flat(p);
    if (flat && s.instructions < 2) floats = 8192;  // nothing is read again
    if (flat && (p.runs.lines == 1 || s.channels < floats)) {
        p.channels *= p.runs.width;  // a line is one position of many channels
        p.runs.width = 1;
    }
    p.part = p.channels < floats ? p.channels : floats;
    p.chunk = p.part < p.channels ? 1 : floats / p.channels;
    if (p.chunk > p.runs.width) p.chunk = p.runs.width;
    p.runs.length = p.chunk * (p.chunk < 64 ? 64 / p.chunk : 1);
    p.runs.per_line = (p.runs.width + p.runs.length - 1) / p.runs.length;
    p.stride = (p.chunk * p.part + 15) / 16 * 16;
}

static void assign_buffers(PointwisePlan& p) {
    const bz_pointwise_step& s = p.s;
    for (int i = 0; i < BZ_REGISTERS; ++i) p.operand_buffer[i] = p.register_buffer[i] = -1;
    for (int i = 0; i < s.operands; ++i) {
        const bz_map& m = p.operand[i];
        bool read_in_place = m.channel == 1 && (p.chunk == 1 || m.pixel == p.channels);
        for (int r = 0; r < s.results; ++r)  // another result may be written before this one is copied
            if (s.result[r].out.data != m.data)
                continue;
            else
                for (int k = 0; k < s.results; ++k) read_in_place = read_in_place && s.result[k].source != i;
        if (!read_in_place) p.operand_buffer[i] = p.buffers++;
    }
    for (int r = 0; r < s.results; ++r) p.dense_result[r] = p.chunk == 1 || s.result[r].out.pixel == p.channels;
    for (int i = 0; i < s.instructions; ++i) {
        p.direct[i] = -1;
        for (int r = 0; r < s.results && p.direct[i] < 0; ++r)
            if (p.dense_result[r] && writes_directly(s, i, r)) p.direct[i] = r;
        int& buffer = p.register_buffer[s.instruction[i].to];
        if (p.direct[i] < 0 && buffer < 0) buffer = p.buffers++;
    }
    p.vector_buffer = p.buffers;
    if (p.chunk == 1) return;
    for (int i = 0; i < s.instructions; ++i)
        for (int k = 0; k < kVectorArrays; ++k) p.buffers += s.instruction[i].v[k] != nullptr;
}

static int start_thread(const PointwisePlan& p, PointwiseState& state) {
    const bz_pointwise_step& s = p.s;
    state = {};
    state.memory = static_cast<float*>(aligned_alloc(64, size_t(p.buffers + 1) * size_t(p.stride) * sizeof(float)));
    state.vectors = static_cast<const float**>(malloc(size_t(s.instructions + 1) * kVectorArrays * sizeof(float*)));
    if (!state.memory || !state.vectors) return BZ_NO_MEMORY;
    float* to = state.memory + p.vector_buffer * p.stride;
    for (int i = 0; i < s.instructions; ++i)
        for (int k = 0; k < kVectorArrays; ++k) {
            const float* v = s.instruction[i].v[k];
            if (v && p.chunk > 1) {
                gather(to, v, 0, 1, p.chunk, p.channels);
                v = to;
                to += p.stride;
            }
            state.vectors[i * kVectorArrays + k] = v;
        }
    return BZ_OK;
}

static int pointwise(int threads, const bz_pointwise_step& s) {
    PointwisePlan p = {s, {}, {}, 0, 0, 0, 0, 0, {}, {}, 0, {}, {}, {}};
    choose_chunk(p);
    assign_buffers(p);
    int status = BZ_OK;
    for (int i = 0; i < s.results; ++i) {
        p.partial[i] = partial_sums(s.result[i].sums, p.runs, p.channels);
        if (s.result[i].sums && !p.partial[i]) status = BZ_NO_MEMORY;
    }
    // a flat map is one item: its parts are shared out
    const bool flat = p.runs.items() == 1 && p.runs.width == 1;
    const int64_t parts = (p.channels + p.part - 1) / p.part, work = flat ? parts : p.runs.items();
    const int some = threads_for(threads, int64_t(s.images) * s.height * s.width * s.channels);
    if (status == BZ_OK) {
        int failed = 0;
#pragma omp parallel for schedule(static) num_threads(some) reduction(| : failed) if (some > 1)
        for (int t = 0; t < some; ++t) {
            PointwiseState state;
            failed |= start_thread(p, state);
            const int64_t begin = work * t / some, end = work * (t + 1) / some;
            for (int64_t i = begin; i < end && failed == 0; ++i) {
                const int64_t first = i * p.part;
                if (flat)
                    pointwise_chunk(p, state, {0, 0, 0, 1}, 0, 0, 1, first,
                                    first + p.part < p.channels ? p.part : p.channels - first);
                else
                    pointwise_run(p, state, i);
            }
            free(state.memory);
            free(state.vectors);
        }
        status = failed;
    }
    for (int i = 0; i < s.results; ++i) {
        if (status == BZ_OK && s.result[i].sums)
            reduce(p.partial[i], p.runs.images, p.runs.lines * p.runs.per_line, 1, p.channels, p.channels,
                   s.result[i].sums);
        free(p.partial[i]);
    }
    return status;
}

}  // namespace BZ_NS
}  // namespace bz
