// main() of the peers' programs, see peer_main.h.
#include "perf/peers/peer_main.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>

#include "perf/json_report.h"

namespace tutti::perf {

int peer_main(int argc, char** argv, const std::string& library,
              const std::function<void(CLI::App&)>& more,
              const std::function<std::unique_ptr<Harness>()>& make) {
  CLI::App app{"Measures " + library + " with tutti's loop and data check."};
  SweepOptions sweep;
  PeerOptions options;
  add_sweep_flags(app, &sweep);
  app.add_option("--configuration", options.configuration, "label in the results");
  app.add_option("--json-lines", options.json_lines_file, "append results here (default: stdout)");
  app.add_option_function<std::string>("--collective", [&sweep](const std::string& text) {
    const std::optional<Collective> parsed = parse_collective(text);
    if (!parsed) throw CLI::ValidationError("'" + text + "' is not a collective");
    sweep.collective = *parsed;
  });
  if (more) more(app);
  CLI11_PARSE(app, argc, argv);

  const std::unique_ptr<Harness> harness = make();
  if (!harness) return 3;
  uint64_t wrong = 0;
  const std::string error = run_sweep(*harness, sweep, [&](const Point& point) {
    wrong += point.out_of_place.wrong + point.in_place.wrong;
    if (harness->rank() != 0) return;
    const std::string line =
        json_line(library, options.configuration, sweep.collective, harness->ranks(), point).dump();
    if (options.json_lines_file.empty()) {
      std::printf("%s\n", line.c_str());
      std::fflush(stdout);
    } else {
      std::ofstream(options.json_lines_file, std::ios::app) << line << "\n";
    }
  });
  if (!error.empty()) std::fprintf(stderr, "# error: %s: %s\n", library.c_str(), error.c_str());
  if (wrong > 0)
    std::fprintf(stderr, "# %s (%s): %llu wrong values\n", library.c_str(),
                 options.configuration.c_str(), static_cast<unsigned long long>(wrong));
  return !error.empty() ? 3 : wrong > 0 ? 1 : 0;
}

}  // namespace tutti::perf
