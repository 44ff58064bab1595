// From sums of a strip to the epilogue.
#pragma once

#include "amx_plan.h"

namespace bz {
namespace BZ_NS {

// Sums of a position as floats; those of a strip lie side by side, strips `strip` ints apart.
struct WholeSums {
    const int32_t* sums;
    int64_t strip;
    inline __attribute__((always_inline)) Floats at(const int32_t* from, int j) const {
        return __builtin_convertvector(load<Ints>(from + j / kStrip * strip + j % kStrip), Floats);
    }
    inline __attribute__((always_inline)) Floats operator()(int j) const { return at(sums, j); }
};
struct SteppedSums : WholeSums {
    float largest;  // scale of the group; not a step, which can be too small for a float
    inline __attribute__((always_inline)) Floats scaled(Floats steps) const {
        return steps * splat(1.0f / kMost) * splat(largest);
    }
    inline __attribute__((always_inline)) Floats operator()(int j) const { return scaled(at(sums, j)); }
};
struct ExactSums : SteppedSums {
    int64_t pass;  // from the first pass's to the second's
    inline __attribute__((always_inline)) Floats operator()(int j) const {
        return scaled(multiply_add(at(sums + pass, j), splat(1.0f / kPairBase), at(sums, j)));
    }
};
template <class Of>
struct MatrixSumsOfLine {
    static constexpr int kMost = kAnyNumber;
    Of zero;  // position 0 of the line
    inline __attribute__((always_inline)) Of operator()(int64_t x) const {
        Of of = zero;
        of.sums += x * kStrip;
        return of;
    }
    bool alike(int64_t, int) const { return true; }
    inline __attribute__((always_inline)) Of beside(Of first, int64_t i) const {
        first.sums += i * kStrip;
        return first;
    }
};

// Outputs of one block of channels at the positions of a piece; sums: of its first position.
static void finish_channels(const MatrixPlan& p, const bz_epilogue& e, const Channels& channels, int g,
                            const Piece& piece, const int32_t* sums, int64_t item) {
    const int64_t all = int64_t(p.s.input.groups) * p.parameters.padded, strip = p.sums_positions * kStrip;
    float* const partial = p.partial ? p.partial + item * all + channels.at : nullptr;
    const int32_t* const zero = sums - piece.begin * kStrip;
    const auto run = [&](const auto& of_line) {
        finish(channels, p.parameters, e, of_line, piece.image, piece.line, piece.begin, piece.end,
               partial);
    };
    if (p.digits == 1)
        run(MatrixSumsOfLine<WholeSums>{{zero, strip}});
    else if (p.passes == 1)
        run(MatrixSumsOfLine<SteppedSums>{{{zero, strip}, p.largest[g]}});
    else
        run(MatrixSumsOfLine<ExactSums>{{{{zero, strip}, p.largest[g]}, p.sums_ints / 2}});
}

}  // namespace BZ_NS
}  // namespace bz
