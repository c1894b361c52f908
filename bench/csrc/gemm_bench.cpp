// Prints the speed of the matrix products of Linear layers, as a share of this core's FMA peak.
// Compiled once per instruction set; run it with nothing else on the machine.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "team/gemm.h"

namespace {

using namespace fastmaml::FM_ISA;

// The shortest of many short runs, most of which nothing interrupts.
double seconds_of(auto f) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int repeat = 0; repeat < 50; ++repeat) {
    int64_t calls = 1;
    for (;; calls *= 2) {
      const auto start = Clock::now();
      for (int64_t call = 0; call < calls; ++call) f();
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (seconds > 2e-4) {
        best = seconds / calls < best ? seconds / calls : best;
        break;
      }
    }
  }
  return best;
}

// Multiply-adds a second of independent chains in registers.
template <class Real>
double peak() {
  using V = Vec<Real>;
  constexpr int chains = 12, steps = 1000;
  volatile Real sink;
  const double seconds = seconds_of([&] {
    V acc[chains], x = V::broadcast(Real(0.5));
    for (int c = 0; c < chains; ++c) acc[c] = V::broadcast(Real(c));  // or they would be one chain
    for (int step = 0; step < steps; ++step) {
#pragma GCC unroll 16
      for (int c = 0; c < chains; ++c) acc[c] = fma(acc[c], x, x);
    }
    for (auto& a : acc) sink = sum(a);
  });
  (void)sink;
  return double(chains) * steps * V::width / seconds;
}

template <class Real>
Real* random_matrix(int64_t count) {
  Real* data = static_cast<Real*>(std::aligned_alloc(64, (count * sizeof(Real) + 127) / 64 * 64));
  for (int64_t i = 0; i < count; ++i) data[i] = Real(std::rand()) / Real(RAND_MAX) - Real(0.5);
  return data;
}

template <class Real>
void print_shape(int64_t samples, int64_t out, int64_t in, double peak_rate) {
  Real* x = random_matrix<Real>(samples * in);
  Real* w = random_matrix<Real>(out * in);
  Real* w_bar = random_matrix<Real>(out * in);
  Real* y = random_matrix<Real>(samples * out);
  Real* x_bar = random_matrix<Real>(samples * in);
  Real* bias = random_matrix<Real>(out);
  const Product<Real> forward = {samples,    out,        in,           Real(1),
                                 {x, in, 1}, {w, 1, in}, {bias, 0, 1}, {y, out, 1}};
  const Product<Real> dgrad = {
      samples, in, out, Real(1), {y, out, 1}, {w, in, 1}, {nullptr, 0, 0}, {x_bar, in, 1}};
  const Product<Real> wgrad = {out,         in,         samples,        Real(-0.01),
                               {y, 1, out}, {x, in, 1}, {w_bar, in, 1}, {w_bar, in, 1}};
  const double work = double(samples) * out * in;
  std::printf("%4ldx%3ldx%4ld", long(samples), long(out), long(in));
  for (const auto* p : {&forward, &dgrad, &wgrad}) {
    const double rate = work / seconds_of([&] { gemm(*p, 0, 1); });
    std::printf("   %6.1f %3.0f%%", 2e-9 * rate, 100 * rate / peak_rate);
  }
  std::printf("\n");
  for (Real* data : {x, w, w_bar, y, x_bar, bias}) std::free(data);
}

template <class Real>
void print_table(const char* type) {
  const double peak_rate = peak<Real>();
  std::printf("%s: peak %.1f GFLOP/s\nsamples x out x in   forward        dgrad         wgrad\n",
              type, 2e-9 * peak_rate);
  constexpr int64_t shapes[][3] = {{10, 40, 1},   {10, 40, 40},  {10, 1, 40},   {25, 5, 640},
                                   {75, 5, 640},  {75, 25, 640}, {5, 256, 784}, {75, 256, 784},
                                   {5, 128, 256}, {5, 64, 128},  {5, 5, 64},    {200, 64, 20},
                                   {200, 64, 64}, {200, 6, 64},  {1, 64, 64},   {1024, 256, 256}};
  for (const auto& shape : shapes) print_shape<Real>(shape[0], shape[1], shape[2], peak_rate);
}

}  // namespace

int main() {
  print_table<float>("float");
  print_table<double>("double");
}
