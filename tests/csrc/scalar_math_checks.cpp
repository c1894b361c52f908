// The float functions of scalar_math.h against the C library's in double: their largest errors
// over a sweep of all magnitudes, and their values at the edges.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "program/scalar_math.h"

namespace {

namespace scalar = fastmaml::FM_ISA::scalar;
int failures = 0;

void expect(bool condition, const char* what, double x) {
  if (condition) return;
  std::printf("FAILED: %s at %.9g\n", what, x);
  ++failures;
}

// The distance from |x| to the next float; of the smallest normal number below that.
double last_place(double x) {
  const float magnitude = std::max(static_cast<float>(std::fabs(x)), 1.17549435e-38f);
  return std::nextafter(magnitude, INFINITY) - magnitude;
}

// Every 101st float up to `limit`, of either sign or from `least` on.
template <class F>
void for_floats(float limit, float least, F f) {
  for (uint32_t bits = 0;; bits += 101) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    if (!(x <= limit)) return;
    if (x >= least) f(x);
    if (-x >= least) f(-x);
  }
}

template <class F, class Exact>
void check(const char* name, F f, Exact exact, float limit, double allowed, double floor,
           float least = -INFINITY) {
  double worst = 0, at = 0;
  for_floats(limit, least, [&](float x) {
    const double want = exact(static_cast<double>(x)), got = f(x);
    if (std::fabs(want) > std::numeric_limits<float>::max()) {
      expect(got == (want > 0 ? INFINITY : -INFINITY), name, x);
      return;
    }
    const double error = std::fabs(got - want) / last_place(std::max(std::fabs(want), floor));
    if (!(error <= worst)) worst = error, at = x;
  });
  std::printf("%-8s largest error %.2f units in the last place, at %.9g\n", name, worst, at);
  expect(worst <= allowed, name, at);
}

}  // namespace

// How many were not so.
int check_scalar_math() {
  const auto sigmoid = [](auto x) { return 1 / (1 + std::exp(-x)); };
  check(
      "exp", [](float x) { return scalar::exp(x); }, [](double x) { return std::exp(x); }, 200, 1.0,
      0);
  check(
      "tanh", [](float x) { return scalar::tanh(x); }, [](double x) { return std::tanh(x); }, 200,
      1.3, 0);
  check(
      "log", [](float x) { return scalar::log(x); }, [](double x) { return std::log(x); },
      std::numeric_limits<float>::max(), 0.9, 0, std::numeric_limits<float>::min());
  check("sigmoid", [](float x) { return scalar::sigmoid(x); }, sigmoid, 80, 2.4, 0);
  check(
      "sin", [](float x) { return scalar::sin(x); }, [](double x) { return std::sin(x); }, 1e6, 1.6,
      0.5);
  check(
      "cos", [](float x) { return scalar::cos(x); }, [](double x) { return std::cos(x); }, 1e6, 1.6,
      0.5);
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = INFINITY;
  expect(std::isnan(scalar::exp(nan)) && std::isnan(scalar::tanh(nan)) &&
             std::isnan(scalar::sin(nan)) && std::isnan(scalar::cos(nan)) &&
             std::isnan(scalar::sigmoid(nan)) && std::isnan(scalar::log(nan)) &&
             std::isnan(scalar::log(-nan)),
         "NaN stays NaN", nan);
  expect(scalar::exp(infinity) == infinity && scalar::exp(-infinity) == 0, "exp", infinity);
  expect(scalar::log(infinity) == infinity && scalar::log(0.0f) == -infinity, "log", infinity);
  expect(scalar::log(1.0f) == 0, "log", 1);
  expect(scalar::tanh(infinity) == 1 && scalar::tanh(-infinity) == -1, "tanh", infinity);
  expect(scalar::sigmoid(infinity) == 1 && scalar::sigmoid(-infinity) == 0, "sigmoid", infinity);
  expect(std::isnan(scalar::sin(infinity)) && std::isnan(scalar::cos(-infinity)), "sin", infinity);
  expect(scalar::exp(0.0f) == 1 && scalar::tanh(0.0f) == 0 && scalar::sin(0.0f) == 0, "zero", 0);
  std::printf("scalar_math: %s\n", failures ? "FAILED" : "passed");
  return failures;
}
