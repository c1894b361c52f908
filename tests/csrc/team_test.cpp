// The Team of processor cores, on every instruction set that this processor has.
#include <cstdio>

#include "check.h"
#include "cpu/cpu_features.h"

#define FM_DECLARE(name)     \
  namespace fastmaml::name { \
  void check_gemm();         \
  void check_team();         \
  }
FM_FOR_EACH_ISA(FM_DECLARE)
#undef FM_DECLARE

int main() {
  for (const fastmaml::Isa isa : fastmaml::supported_isas()) {
    std::printf("%s\n", fastmaml::isa_name(isa));
    switch (isa) {
#define FM_CASE(name)             \
  case fastmaml::Isa::name:       \
    fastmaml::name::check_gemm(); \
    fastmaml::name::check_team(); \
    break;
      FM_FOR_EACH_ISA(FM_CASE)
#undef FM_CASE
    }
  }
  return failed_checks != 0;
}
