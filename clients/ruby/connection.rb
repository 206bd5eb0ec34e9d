# frozen_string_literal: true

# One address, one token, and what every call has: a deadline, retries where they are safe, errors that can be read.

require 'google/protobuf/well_known_types'
require 'google/rpc/error_details_pb'
require 'google/rpc/status_pb'
require 'grpc'
require 'json'
require 'uri'

# Opens stubs that share the address, the token and the policy of retries.
class Connection
  CALL_SECONDS = 30

  # Every method may be sent again when it was UNAVAILABLE: creations carry a request_id.
  RETRIES = {
    methodConfig: [{
      name: [{}],
      retryPolicy: {
        maxAttempts: 4, initialBackoff: '0.2s', maxBackoff: '2s', backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE']
      }
    }]
  }.freeze

  # Puts the token on every call.
  class Bearer < GRPC::ClientInterceptor
    def initialize(authorization)
      super()
      @authorization = authorization
    end

    def request_response(metadata:, **)
      metadata.update(@authorization)
      yield
    end

    def server_streamer(metadata:, **)
      metadata.update(@authorization)
      yield
    end
  end

  def initialize(address, token)
    uri = URI(address)
    @target = "#{uri.host}:#{uri.port}"
    @credentials = uri.scheme == 'https' ? GRPC::Core::ChannelCredentials.new : :this_channel_is_insecure
    @authorization = { 'authorization' => "Bearer #{token}" }
    @interceptors = [Bearer.new(@authorization)]
  end

  # Metadata for calls that ask for their operation (`return_op`): the library runs no interceptor for those.
  attr_reader :authorization

  # A stub whose calls end after 30 s unless they say otherwise.
  def stub(service)
    service::Stub.new(@target, @credentials,
                      timeout: CALL_SECONDS,
                      interceptors: @interceptors,
                      channel_args: { 'grpc.service_config' => JSON.generate(RETRIES) })
  end
end

# What errors say for programs.
module Errors
  DETAILS = 'grpc-status-details-bin'
  CODES = GRPC::Core::StatusCodes.constants.to_h { |name| [GRPC::Core::StatusCodes.const_get(name), name.to_s] }

  def self.code(error)
    CODES.fetch(error.code)
  end

  # The stable reason of an error, and the request field that is wrong.
  def self.explain(error)
    said = { code: code(error), reason: '', field: '' }
    details = error.metadata[DETAILS]
    return said if details.nil?

    Google::Rpc::Status.decode(details).details.each do |detail|
      if detail.is(Google::Rpc::ErrorInfo)
        said[:reason] = detail.unpack(Google::Rpc::ErrorInfo).reason
      elsif detail.is(Google::Rpc::BadRequest)
        said[:field] = detail.unpack(Google::Rpc::BadRequest).field_violations.first&.field.to_s
      end
    end
    said
  end
end
