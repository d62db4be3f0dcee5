// A rank's proxy with a transport and a thread of its own, for tests of worlds of several hosts.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "src/cuda/peer_world.h"
#include "src/cuda/proxy.h"
#include "transports/make.h"

namespace tutti::cuda {

class Relay {
 public:
  // Collective. `network`: local or tcp; `fault`: transports/faulty/README.md.
  Relay(Rank rank, uint32_t ranks, Mirrors& mirrors, const std::string& network,
        const std::string& fault, const PeerWorld::Gather& gather) {
    struct Card {
      char text[600];
      size_t length;
    };
    TransportOptions options;
    options.rank = rank;
    options.ranks = ranks;
    options.job = "relay" + std::to_string(::getpid());
    options.key.assign(32, std::byte{7});
    options.interface = "=lo";
    auto transport = make_transport(network, options, fault);
    EXPECT_TRUE(transport.ok()) << transport.status().to_string();
    Card mine{};
    const std::string card = (*transport)->card();
    mine.length = card.size();
    std::memcpy(mine.text, card.data(), card.size());
    std::vector<Card> all(ranks);
    EXPECT_TRUE(gather(&mine, all.data(), sizeof mine).ok());
    std::vector<std::string> cards;
    for (const Card& c : all) cards.emplace_back(c.text, c.length);
    const Status connected = (*transport)->connect(cards, Clock::now() + std::chrono::seconds(30));
    EXPECT_TRUE(connected.ok()) << connected.to_string();
    std::vector<std::unique_ptr<Transport>> transports;
    transports.push_back(std::move(*transport));
    router_ = std::make_unique<Router>(rank, std::move(transports), std::vector<uint8_t>(ranks),
                                       size_t{4096});
    proxy_ = std::make_unique<Proxy>(*router_, mirrors);
    const Status opened = proxy_->open();
    EXPECT_TRUE(opened.ok()) << opened.to_string();
    thread_ = std::thread([this] { serve(); });
  }
  // As a process that ends: what has not been sent is not.
  ~Relay() {
    stopping_.store(true);
    thread_.join();
    router_->transports()[0]->close(Clock::now() + std::chrono::milliseconds(200));
  }
  const Proxy& proxy() const { return *proxy_; }

 private:
  void serve() {
    while (!stopping_.load()) {
      static_cast<void>(router_->transports()[0]->progress());
      if (!proxy_->turn()) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  std::unique_ptr<Router> router_;
  std::unique_ptr<Proxy> proxy_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace tutti::cuda
