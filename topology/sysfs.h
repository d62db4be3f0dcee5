// Linux's sysfs as a source of parts: NUMA nodes and cores, PCI devices and the bridges above them,
// network interfaces and InfiniBand ports.
#pragma once

#include <string>

#include "topology/machine.h"

namespace tutti {

class Sysfs {
 public:
  explicit Sysfs(std::string root, Machine* machine) : root_(std::move(root)), m_(machine) {}

  // Packages, NUMA nodes and, if asked for, cores. `processor` gives architecture and model.
  void add_processors(const Part& processor, bool cores);
  // GPUs that PCI shows, with the bridges above them.
  void add_gpus();
  // NICs, new or already in the machine (by bus id): speed, place, port, state. Virtual interfaces
  // only where there is no other way out.
  void add_nics();

 private:
  struct Port {
    std::string name, interface, guid;
    int number = -1;
    double bandwidth = 0;
    bool up = true;
  };

  bool read(const std::string& path, std::string* text, std::string* why = nullptr) const;
  PartId numa_part(const std::string& device_path, const std::string& what);
  PartId pci_part(const std::string& device_path, NodeKind kind, const std::string& what);
  double pci_link(const std::string& folder, const std::string& above) const;
  void add_card(const std::string& device_path, const std::string& what, std::vector<Port> ports);

  std::string root_;
  Machine* m_;
};

}  // namespace tutti
