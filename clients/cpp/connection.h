// One address, one token, and what every call has: a deadline, retries where they are safe, errors that can be read.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include <grpcpp/grpcpp.h>

// A call that did not end well.
class Error : public std::runtime_error {
 public:
  explicit Error(const grpc::Status& status) : std::runtime_error(status.error_message()), status_(status) {}
  grpc::StatusCode code() const { return status_.error_code(); }
  // What it says for programs: its stable reason, and the request field that is wrong.
  nlohmann::json explain() const;

 private:
  grpc::Status status_;
};

class Connection {
 public:
  static constexpr std::chrono::seconds kCall{30};

  Connection(const std::string& address, std::string token);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // What a call is made with: the token, and no deadline yet.
  std::unique_ptr<grpc::ClientContext> context() const;

  // A unary call: `connection.call(*stub, &DataService::Stub::CreateDataset, request)`.
  template <typename Stub, typename Owner, typename Request, typename Response>
  Response call(Stub& stub, grpc::Status (Owner::*method)(grpc::ClientContext*, const Request&, Response*),
                const Request& request, std::unique_ptr<grpc::ClientContext> context = nullptr) const {
    if (context == nullptr) context = this->context();
    context->set_deadline(std::chrono::system_clock::now() + kCall);
    Response response;
    const grpc::Status status = (stub.*method)(context.get(), request, &response);
    if (!status.ok()) throw Error(status);
    return response;
  }

 private:
  std::string authorization_;
  std::shared_ptr<grpc::Channel> channel_;
};

// The name of a code as the other languages spell it.
std::string name_of(grpc::StatusCode code);
