// Matrix products against plain loops: all layouts, odd sizes, any division among lanes.
#include "team/gemm.h"
#include "team/gemm_lockstep.h"

#include "buffer.h"
#include "check.h"

namespace fastmaml::FM_ISA {
namespace {

// Which of them are contiguous; packed rows follow one another without a gap.
enum class Layout { rows, columns, neither, packed };
constexpr Layout layouts[] = {Layout::rows, Layout::columns, Layout::neither};

// A matrix in a buffer that ends with its last element.
template <class Real>
struct Matrix {
  int64_t rows, columns, row_stride, column_stride;
  Buffer<Real> buffer;

  Matrix(int64_t rows, int64_t columns, Layout layout, uint32_t seed)
      : rows(rows),
        columns(columns),
        row_stride(layout == Layout::rows      ? columns + 3
                   : layout == Layout::packed  ? columns
                   : layout == Layout::columns ? 1
                                               : 2),
        column_stride(layout == Layout::rows      ? 1
                      : layout == Layout::packed  ? 1
                      : layout == Layout::columns ? rows + 1
                                                  : 2 * rows + 1),
        buffer(rows && columns ? (rows - 1) * row_stride + (columns - 1) * column_stride + 1 : 0) {
    buffer.fill(seed);
  }

  Real& at(int64_t i, int64_t j) { return buffer[i * row_stride + j * column_stride]; }
  View<const Real> view() { return {buffer.data(), row_stride, column_stride}; }
  View<Real> target() { return {buffer.data(), row_stride, column_stride}; }
};

enum class Init { zero, self, row, column, number };

template <class Real>
View<const Real> init_view(Init init, Matrix<Real>& c, Matrix<Real>& bias) {
  switch (init) {
    case Init::zero:
      return {nullptr, 0, 0};
    case Init::self:
      return c.view();
    case Init::row:
      return {bias.buffer.data(), 0, 1};
    case Init::column:
      return {bias.buffer.data(), 1, 0};
    case Init::number:
      break;
  }
  return {bias.buffer.data(), 0, 0};
}

template <class Real>
bool near(double expected, Real got, int64_t terms) {
  const double epsilon = sizeof(Real) == sizeof(float) ? 1.2e-7 : 2.3e-16;
  return __builtin_fabs(double(got) - expected) <= epsilon * double(2 * terms + 4);
}

template <class Real>
void check_product(int64_t m, int64_t n, int64_t k, Layout a_layout, Layout b_layout,
                   Layout c_layout, Init init, Real alpha, bool is_sum) {
  Matrix<Real> a(m, k, a_layout, 1), b(k, n, b_layout, 2), c(m, n, c_layout, 3);
  Matrix<Real> a_more(m, k, a_layout, 5), b_more(k, n, b_layout, 6);
  Matrix<Real> bias(m > n ? m : n, 1, Layout::columns, 4);
  const Matrix<Real> before = c;
  auto product = [&](Matrix<Real>& to) {
    return Product<Real>{m,
                         n,
                         k,
                         alpha,
                         a.view(),
                         b.view(),
                         init_view(init, to, bias),
                         to.target(),
                         is_sum ? a_more.buffer.data() : nullptr,
                         is_sum ? b_more.buffer.data() : nullptr};
  };
  gemm(product(c), 0, 1);

  Matrix<Real> start = before;
  const View<const Real> from = init_view(init, start, bias);
  bool right = true;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t e = 0; e < k; ++e) {
        sum += double(a.at(i, e)) * double(b.at(e, j));
        if (is_sum) sum += double(a_more.at(i, e)) * double(b_more.at(e, j));
      }
      const double base = from.data ? *at(from, i, j) : 0;
      right = right && near(base + double(alpha) * sum, c.at(i, j), is_sum ? 2 * k : k);
    }
  }
  CHECK(right);

  for (int lanes = 2; lanes <= 5; ++lanes) {
    Matrix<Real> again = before;
    for (int lane = lanes - 1; lane >= 0; --lane) gemm(product(again), lane, lanes);
    CHECK(again.buffer.same_bits(c.buffer));
  }

  Matrix<Real> by_row = before;
  for (int64_t i = 0; i < m; ++i) {
    Product<Real> row = product(by_row);
    row.m = 1;
    row.a.data += i * row.a.row_stride;
    if (is_sum) row.a_more += i * row.a.row_stride;
    row.c.data += i * row.c.row_stride;
    if (row.init.data) row.init.data += i * row.init.row_stride;
    gemm(row, 0, 1);
  }
  // One row is not brought to panels, which turn b around, or cut k at a depth of their own.
  const Product<Real> whole = product(by_row);
  const bool is_dot = a_layout == Layout::rows && b_layout == Layout::columns;
  const bool other_order = is_dot ? turning_pays(whole) && k > shallow
                                  : (copying_pays(whole) || copying_pays(transposed(whole))) &&
                                        k > (is_sum ? panel_depth / 2 : panel_depth);
  CHECK((other_order && m > 1) || by_row.buffer.same_bits(c.buffer));
}

template <class Real>
void check_products() {
  constexpr int64_t sizes[] = {0, 1, 2, 5, 7, 16, 19, 35};
  constexpr Real alphas[] = {1, Real(-0.25)};
  uint32_t count = 0;  // goes through inits, alphas and sums of two as the shapes go by
  for (const int64_t m : sizes) {
    for (const int64_t n : sizes) {
      for (const int64_t k : sizes) {
        for (const Layout a : layouts) {
          for (const Layout b : layouts) {
            for (const Layout c : layouts) {
              check_product(m, n, k, a, b, c, static_cast<Init>(count % 5), alphas[count / 5 % 2],
                            count / 10 % 2 == 1);
              ++count;
            }
          }
        }
      }
    }
  }
  using enum Layout;
  using enum Init;
  struct {
    int64_t m, n, k;
    Layout a, b, c;
    Init init;
    Real alpha;
  } constexpr larger[] = {
      // Than a tile in every direction, and than the cache that decides the order of tiles.
      {13, 70, 129, rows, columns, rows, row, Real(1)},
      {13, 70, 50, rows, columns, rows, row, Real(1)},
      {13, 150, 129, rows, rows, rows, self, Real(1)},
      {150, 13, 129, columns, rows, columns, column, Real(1)},
      {300, 21, 70, rows, rows, rows, zero, Real(1)},
      // Deeper than outer tiles go at once, and more rows than dot tiles read at once.
      {23, 39, 1000, columns, rows, rows, self, Real(-0.25)},
      {39, 23, 1000, columns, rows, columns, row, Real(1)},
      {70, 40, 130, rows, columns, rows, row, Real(-0.25)},
      {90, 150, 300, rows, columns, rows, self, Real(1)},
      {610, 9, 120, rows, columns, rows, row, Real(1)},
      // Out of panels: two blocks of rows, the last strip narrow; the mirror; shared by columns.
      {270, 300, 250, rows, rows, rows, self, Real(1)},
      {270, 300, 250, columns, rows, rows, self, Real(-0.25)},
      {270, 300, 250, rows, columns, rows, row, Real(1)},
      {270, 300, 250, packed, packed, packed, self, Real(1)},
      {270, 300, 250, columns, packed, rows, self, Real(1)},
      {300, 270, 250, columns, rows, columns, zero, Real(1)},
      {66, 1100, 70, rows, rows, rows, row, Real(1)},
      {70, 610, 130, columns, rows, columns, zero, Real(1)},
  };
  for (const auto& p : larger) {
    for (const bool is_sum : {false, true}) {
      check_product(p.m, p.n, p.k, p.a, p.b, p.c, p.init, p.alpha, is_sum);
    }
  }
}

// Every height and width of tile, with every way to begin: compilers have got single ones wrong.
template <class Real>
void check_tiles() {
  for (int64_t m = 1; m <= 12; ++m) {
    for (int64_t n = 1; n <= 12; ++n) {
      for (const Init init : {Init::zero, Init::self, Init::row, Init::column, Init::number}) {
        check_product(m, n, 70, Layout::rows, Layout::columns, Layout::rows, init, Real(1), n % 2);
        check_product(m, n, 9, Layout::columns, Layout::rows, Layout::rows, init, Real(1), n % 2);
      }
    }
  }
}

// A Gram matrix, of which half is computed, has the bits of a product with a copy of its rows.
template <class Real>
void check_gram() {
  for (const int64_t m : {1, 2, 5, 7, 26, 40}) {
    for (const int64_t k : {19, 70, 210}) {
      Matrix<Real> a(m, k, Layout::rows, 1), copy = a, c(m, m, Layout::rows, 2);
      const Matrix<Real> before = c;
      const Real start = Real(0.5);
      auto product = [&](Matrix<Real>& b, Matrix<Real>& to) {
        return Product<Real>{m,
                             m,
                             k,
                             Real(-0.25),
                             a.view(),
                             {b.buffer.data(), 1, b.row_stride},
                             {&start, 0, 0},
                             to.target()};
      };
      gemm(product(copy, c), 0, 1);
      for (int lanes = 1; lanes <= 5; ++lanes) {
        Matrix<Real> gram = before;
        for (int lane = lanes - 1; lane >= 0; --lane) gemm(product(a, gram), lane, lanes);
        CHECK(gram.buffer.same_bits(c.buffer));
      }
    }
  }
}

// The products of all tasks in lockstep against plain loops: element (i, j) is a vector of numbers,
// one a task, which lie together.
template <class Real>
void check_lockstep(int64_t m, int64_t n, int64_t k, bool a_turned, bool b_turned, Init init,
                    bool is_sum) {
  constexpr int64_t tasks = Vec<Real>::width;
  Buffer<Real> a(m * k * tasks), b(k * n * tasks), c(m * n * tasks), bias(n * tasks);
  Buffer<Real> a_more(m * k * tasks), b_more(k * n * tasks);
  uint32_t seed = 1;
  for (Buffer<Real>* buffer : {&a, &b, &c, &bias, &a_more, &b_more}) buffer->fill(seed++);
  const View<const Real> a_at{a.data(), a_turned ? 1 : k, a_turned ? m : 1};
  const View<const Real> b_at{b.data(), b_turned ? 1 : n, b_turned ? k : 1};
  Buffer<Real> result = c;
  const View<const Real> starts[] = {{nullptr, 0, 0}, {result.data(), n, 1}, {bias.data(), 0, 1}};
  const Real alpha = Real(-0.25);
  gemm_in_lockstep(Product<Real>{m,
                                 n,
                                 k,
                                 alpha,
                                 a_at,
                                 b_at,
                                 starts[static_cast<int>(init)],
                                 {result.data(), n, 1},
                                 is_sum ? a_more.data() : nullptr,
                                 is_sum ? b_more.data() : nullptr});
  bool right = true;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t task = 0; task < tasks; ++task) {
        double sum = 0;
        for (int64_t e = 0; e < k; ++e) {
          const int64_t of_a = (i * a_at.row_stride + e * a_at.col_stride) * tasks + task;
          const int64_t of_b = (e * b_at.row_stride + j * b_at.col_stride) * tasks + task;
          sum += double(a[of_a]) * double(b[of_b]);
          if (is_sum) sum += double(a_more[of_a]) * double(b_more[of_b]);
        }
        const int64_t place = (i * n + j) * tasks + task;
        const double start = init == Init::zero   ? 0
                             : init == Init::self ? double(c[place])
                                                  : double(bias[j * tasks + task]);
        right = right && near(start + double(alpha) * sum, result[place], is_sum ? 2 * k : k);
      }
    }
  }
  CHECK(right);
}

// Outer products, tiles of every height and width, and rows in blocks.
template <class Real>
void check_lockstep() {
  constexpr int64_t sizes[][3] = {{10, 40, 40}, {40, 40, 10}, {40, 7, 90}, {7, 40, 90},
                                  {25, 9, 30},  {1, 40, 10},  {10, 1, 40}, {6, 5, 400}};
  uint32_t count = 0;  // goes through layouts as the shapes go by
  for (const Init init : {Init::zero, Init::self, Init::row}) {
    for (const bool is_sum : {false, true}) {
      const auto check = [&](int64_t m, int64_t n, int64_t k) {
        check_lockstep<Real>(m, n, k, count % 2, count / 2 % 2, init, is_sum);
        ++count;
      };
      for (int64_t m = 1; m <= 13; ++m) {
        for (int64_t n = 1; n <= 9; ++n) {
          for (const int64_t k : {0, 1, 2, 7}) check(m, n, k);
        }
      }
      for (const auto& size : sizes) check(size[0], size[1], size[2]);
    }
  }
}

// NaN reaches its own row and column, through a factor of zero as well, and nothing else.
template <class Real>
void check_nan() {
  constexpr int64_t m = 7, n = 21, k = 19;
  for (const Layout b_layout : layouts) {
    Matrix<Real> a(m, k, Layout::rows, 1), b(k, n, b_layout, 2), c(m, n, Layout::rows, 3);
    for (int64_t i = 0; i < m; ++i) a.at(i, 4) = 0;
    b.at(4, 17) = Real(__builtin_nan(""));
    a.at(2, 18) = Real(__builtin_nan(""));
    c.buffer.fill_with(Real(__builtin_nan("")));  // is not read
    gemm(Product<Real>{m, n, k, Real(1), a.view(), b.view(), {nullptr, 0, 0}, c.target()}, 0, 1);
    bool right = true;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const bool is_nan = c.at(i, j) != c.at(i, j);
        right = right && is_nan == (i == 2 || j == 17);
      }
    }
    CHECK(right);
  }
}

}  // namespace

void check_gemm() {
  check_products<float>();
  check_products<double>();
  check_tiles<float>();
  check_tiles<double>();
  check_gram<float>();
  check_gram<double>();
  check_lockstep<float>();
  check_lockstep<double>();
  check_nan<float>();
  check_nan<double>();
}

}  // namespace fastmaml::FM_ISA
