// The elementary functions that activations and losses need, for one number.
//
// In float the common ones are written here, without branches, so that a loop over them becomes
// vector code on every instruction set. Largest errors against the exact value, over all floats
// (for sin and cos, |x| <= 1e6), in units of the result's last place:
//
//   exp 1.0    log 0.9    tanh 1.3    sigmoid 2.4
//   sin, cos 1.6 (below 1/2: of the last place of 1/2)
//
// tests/csrc/scalar_math_checks.cpp measures them. In double, and for what is rare, the C library.
#pragma once

#include <cmath>
#include <cstdint>

#include "../team/team.h"

namespace fastmaml::FM_ISA::scalar {

FM_HD double exp(double x) { return ::exp(x); }
FM_HD double tanh(double x) { return ::tanh(x); }
FM_HD double sin(double x) { return ::sin(x); }
FM_HD double cos(double x) { return ::cos(x); }
FM_HD float expm1(float x) { return ::expm1f(x); }
FM_HD double expm1(double x) { return ::expm1(x); }
FM_HD double log(double x) { return ::log(x); }
FM_HD float log1p(float x) { return ::log1pf(x); }
FM_HD double log1p(double x) { return ::log1p(x); }
FM_HD float erf(float x) { return ::erff(x); }
FM_HD double erf(double x) { return ::erf(x); }
FM_HD float sqrt(float x) { return ::sqrtf(x); }
FM_HD double sqrt(double x) { return ::sqrt(x); }

// a b + c, in one rounding where the processor has that.
FM_HD float multiply_add(float a, float b, float c) {
#if defined(__FP_FAST_FMAF) || defined(__CUDACC__)
  return ::fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// 2^n, for -126 <= n <= 127.
FM_HD float power_of_two(int32_t n) { return __builtin_bit_cast(float, (n + 127) << 23); }

// exp(n log 2 + r) = 2^n exp(r) with |r| <= log(2) / 2, where exp(r) is a minimax polynomial.
FM_HD float exp(float x) {
  // Past these the result is 0 or infinity; comparisons this way round let NaN through.
  x = x > 100 ? 100 : x;
  x = x < -110 ? -110 : x;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const int32_t n = __builtin_bit_cast(int32_t, shifted) - 0x4b400000;
  const float rounded = shifted - 12582912.0f;
  // log 2 in two parts, the first with few bits, so that its product is exact.
  float r = multiply_add(rounded, -0.693359375f, x);
  r = multiply_add(rounded, 2.12194440e-4f, r);
  float p = 0.0013814611f;
  p = multiply_add(p, r, 0.00836871004f);
  p = multiply_add(p, r, 0.0416683874f);
  p = multiply_add(p, r, 0.166665207f);
  p = multiply_add(p, r, 0.499999935f);
  p = multiply_add(p, r * r, r) + 1;
  // In two factors: 2^n alone may be out of range where the result is not.
  const int32_t half = n >> 1;
  return p * power_of_two(half) * power_of_two(n - half);
}

// x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and with s = f / (2 + f)
//   log(1 + f) = log((1 + s) / (1 - s)) = 2s + 2/3 s^3 + 2/5 s^5 + ...
// where 2s = f - s f. Of positive x: of a subnormal number it is that of 0, -infinity.
FM_HD float log(float x) {
  constexpr int32_t sqrt_half = 0x3f3504f3;
  const int32_t bits = __builtin_bit_cast(int32_t, x);
  const int32_t n = (bits - sqrt_half) >> 23;
  const float f = __builtin_bit_cast(float, bits - (n << 23)) - 1;
  const float s = f / (2 + f), s2 = s * s;
  float p = 0.222222222f;
  p = multiply_add(p, s2, 0.285714286f);
  p = multiply_add(p, s2, 0.4f);
  p = multiply_add(p, s2, 0.666666667f);
  const float half_f2 = 0.5f * f * f;
  const float log_1_f = f - (half_f2 - s * (half_f2 + s2 * p));
  const float exponent = static_cast<float>(n);
  float y = multiply_add(exponent, 0.693359375f, multiply_add(exponent, -2.12194440e-4f, log_1_f));
  y = bits < 0x00800000 ? -__builtin_inff() : y;
  return x < __builtin_inff() ? y : x;  // infinity and NaN
}

// 1 / (1 + exp(-x)); exp(-x) may overflow to infinity, which gives the right 0.
template <class Real>
FM_HD Real sigmoid(Real x) {
  return 1 / (1 + exp(-x));
}

// An odd minimax polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel.
FM_HD float tanh(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float z = x * x;
  float p = -0.00571703655f;
  p = multiply_add(p, z, 0.020650579f);
  p = multiply_add(p, z, -0.0537434953f);
  p = multiply_add(p, z, 0.133314912f);
  p = multiply_add(p, z, -0.333332839f);
  const float near = multiply_add(p * z, x, x);
  const float far = 1 - 2 / (exp(2 * magnitude) + 1);
  return magnitude < 0.625f ? near : x < 0 ? -far : far;
}

// sin(x + quarter pi / 2). The angle is reduced to |r| <= pi / 4 in double, so that no digits are
// lost for any x that still has some; then sin(r) or cos(r) by minimax polynomials.
FM_HD float sin_from(float x, int32_t quarter) {
  const double exact = x;
  // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
  const double shifted = exact * 0.63661977236758134308 + 6755399441055744.0;
  const int32_t n = static_cast<int32_t>(__builtin_bit_cast(int64_t, shifted)) + quarter;
  const double quarters = shifted - 6755399441055744.0;
  const float r = static_cast<float>((exact - quarters * 1.57079632679489655800) -
                                     quarters * 6.12323399573676603587e-17);
  const float z = r * r;
  float s = -0.000195140838f;
  s = multiply_add(s, z, 0.00833215504f);
  s = multiply_add(s, z, -0.166666546f);
  s = multiply_add(s * z, r, r);
  float c = 2.44348442e-05f;
  c = multiply_add(c, z, -0.00138873371f);
  c = multiply_add(c, z, 0.0416666463f);
  c = multiply_add(c, z * z, multiply_add(z, -0.5f, 1.0f));
  const float value = n & 1 ? c : s;
  return n & 2 ? -value : value;
}
FM_HD float sin(float x) { return sin_from(x, 0); }
FM_HD float cos(float x) { return sin_from(x, 1); }

// The larger of two, NaN if either is.
template <class Real>
FM_HD Real max(Real a, Real b) {
  return a > b || a != a ? a : b;
}

}  // namespace fastmaml::FM_ISA::scalar
