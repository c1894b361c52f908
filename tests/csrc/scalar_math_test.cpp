// Runs the checks of scalar_math_checks.cpp, if this processor has the instruction set that they
// are compiled for. This file is compiled for any: with wide instructions allowed, a compiler may
// use them before it has asked.
#include <cstring>

#include "cpu/cpu_features.h"

int check_scalar_math();

int main() {
  for (const fastmaml::Isa isa : fastmaml::supported_isas()) {
    if (std::strcmp(fastmaml::isa_name(isa), FM_ISA_NAME) == 0) return check_scalar_math() != 0;
  }
  return 77;  // what the build takes for "cannot run here"
}
