// Limits of the distribution-adaptive binarizer.
#pragma once

#include <math.h>

namespace bz {

// Limits of binarize/functional/dab.py: finite inputs give finite scales, whatever their sums are.
constexpr float kLargestStatistic = 1e18f, kLargestExponent = 22.0f;

// NaN stays NaN, which fminf and fmaxf would make a number of.
static inline float limited(float statistic) {
    if (statistic > kLargestStatistic) return kLargestStatistic;
    return statistic < -kLargestStatistic ? -kLargestStatistic : statistic;
}

static inline float scale_of(float exponent) {
    return expf(exponent > kLargestExponent ? kLargestExponent : exponent);
}

}  // namespace bz
