// The other primitives of a Team of real threads: the same bits from any number of lanes.
#include "team/team_cpu.h"

#include "buffer.h"
#include "check.h"
#include "cpu/thread_pool.h"

namespace fastmaml::FM_ISA {
namespace {

constexpr int64_t counts[] = {0, 1, 5, 16, 63, 64, 65, 200, 1000};

// Runs f(team) on every lane of a team of `size`.
template <class Real, class F>
void on_team(int size, F f) {
  struct Context {
    int size;
    F* f;
    TeamShared shared;
  } context{size, &f, {}};
  run_parallel(
      size,
      [](void* data, int rank) {
        Context& context = *static_cast<Context*>(data);
        TeamCpu<Real> team(rank, context.size, &context.shared);
        (*context.f)(team);
      },
      &context);
}

template <class Real>
void check_sync() {
  for (int size = 1; size <= 5; ++size) {
    int64_t turns[5] = {};
    std::atomic<int> late{0};
    on_team<Real>(size, [&](TeamCpu<Real>& team) {
      for (int64_t turn = 1; turn <= 100; ++turn) {
        turns[team.rank()] = turn;
        team.sync();
        for (int lane = 0; lane < team.size(); ++lane) late += turns[lane] != turn;
        team.sync();
      }
    });
    CHECK(late == 0);
  }
}

template <class Real>
void check_each_and_rows() {
  for (const int64_t count : counts) {
    Buffer<Real> x(count), expected(count), every(count);
    Buffer<int64_t> rows(count), once(count);
    x.fill(1);
    once.fill_with(1);
    for (int64_t i = 0; i < count; ++i) expected[i] = x[i] * Real(0.5) + Real(i);
    for (int size = 1; size <= 5; ++size) {
      every.fill_with(Real(-1));
      rows.fill_with(0);
      on_team<Real>(size, [&](TeamCpu<Real>& team) {
        const Real* from = x.data();
        Real* to = every.data();
        team.each(count, [=](int64_t i) { to[i] = from[i] * Real(0.5) + Real(i); });
        team.rows(count, [&](int64_t i) { ++rows[i]; });
      });
      CHECK(every.same_bits(expected));
      CHECK(rows.same_bits(once));
    }
  }
}

template <class Real>
void check_gemm_of_team() {
  constexpr int64_t m = 37, n = 29, k = 21;
  Buffer<Real> a(m * k), b(k * n), alone(m * n), shared(m * n);
  a.fill(1);
  b.fill(2);
  for (int size = 1; size <= 5; ++size) {
    Buffer<Real>& c = size == 1 ? alone : shared;
    on_team<Real>(size, [&](TeamCpu<Real>& team) {
      team.gemm(m, n, k, Real(1), {a.data(), k, 1}, {b.data(), n, 1}, {nullptr, 0, 0},
                {c.data(), n, 1});
      team.sync();
      team.gemm(m, n, k, Real(1), {a.data(), k, 1}, {b.data(), n, 1}, {c.data(), n, 1},
                {c.data(), n, 1});
    });
    if (size > 1) CHECK(shared.same_bits(alone));
  }
}

// Element (g, e) of a matrix with the groups along rows or along columns.
constexpr int64_t place(Along along, int64_t groups, int64_t count, int64_t g, int64_t e) {
  return along == Along::element ? g * count + e : e * groups + g;
}

template <class Real>
void check_map(Along along, int64_t groups, int64_t count) {
  Buffer<int64_t> calls(groups * count), expected(groups * count);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t e = 0; e < count; ++e) expected[place(along, groups, count, g, e)] = g - 3 * e;
  }
  for (int size = 1; size <= 5; ++size) {
    calls.fill_with(0);
    on_team<Real>(size, [&](TeamCpu<Real>& team) {
      int64_t* to = calls.data();
      team.map(along, groups, count,
               [=](int64_t g, int64_t e) { to[place(along, groups, count, g, e)] += g - 3 * e; });
    });
    CHECK(calls.same_bits(expected));
  }
}

// Of N = 1 or 2 terms: the sum, and that of squares.
template <class Real, int N>
void check_reduce(Along along, int64_t groups, int64_t count) {
  Buffer<Real> x(groups * count), alone(N * groups), sums(N * groups);
  Buffer<int64_t> sinks(groups), once(groups);
  x.fill(1);
  once.fill_with(1);
  for (int size = 1; size <= 5; ++size) {
    Buffer<Real>& to = size == 1 ? alone : sums;
    to.fill_with(Real(-1));
    sinks.fill_with(0);
    on_team<Real>(size, [&](TeamCpu<Real>& team) {
      const Real* from = x.data();
      team.template reduce<N>(
          along, groups, count,
          [=](int64_t g, int64_t e) {
            const Real value = from[place(along, groups, count, g, e)];
            Terms<Real, N> terms{{value}};
            if (N > 1) terms.value[N - 1] = value * value;
            return terms;
          },
          [&](int64_t g, const Terms<Real, N>& total) {
            for (int t = 0; t < N; ++t) to[N * g + t] = total.value[t];
            ++sinks[g];
          });
    });
    CHECK(sinks.same_bits(once));
    if (size > 1) CHECK(sums.same_bits(alone));
  }
  const double epsilon = sizeof(Real) == sizeof(float) ? 1.2e-7 : 2.3e-16;
  bool right = true;
  for (int64_t g = 0; g < groups; ++g) {
    double sum = 0, squares = 0;
    for (int64_t e = 0; e < count; ++e) {
      const double value = x[place(along, groups, count, g, e)];
      sum += value;
      squares += value * value;
    }
    const double bound = epsilon * double(count + 1);
    right = right && __builtin_fabs(alone[N * g] - sum) <= bound * double(count + 1) &&
            (N == 1 || __builtin_fabs(alone[N * g + N - 1] - squares) <= bound * (squares + 1));
  }
  CHECK(right);
}

template <class Real>
void check_primitives() {
  check_sync<Real>();
  check_each_and_rows<Real>();
  check_gemm_of_team<Real>();
  for (const Along along : {Along::group, Along::element}) {
    for (const int64_t groups : {0, 1, 5, 17, 70}) {
      for (const int64_t count : {0, 1, 5, 16, 35, 150}) {
        check_map<Real>(along, groups, count);
        check_reduce<Real, 1>(along, groups, count);
        check_reduce<Real, 2>(along, groups, count);
      }
    }
  }
}

}  // namespace

void check_team() {
  check_primitives<float>();
  check_primitives<double>();
}

}  // namespace fastmaml::FM_ISA
