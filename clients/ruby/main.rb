# frozen_string_literal: true

# The whole path: data, training, serving, a prediction and its trace.
#
#     AIOS_ADDRESS=http://127.0.0.1:8080 AIOS_TOKEN=... ruby main.rb FOLDER NAME

$LOAD_PATH.unshift(File.join(__dir__, 'build', 'gen'))

require 'digest'
require 'net/http'
require 'securerandom'

require 'aios/data/v1/data_service_services_pb'
require 'aios/identity/v1/identity_service_services_pb'
require 'aios/inference/v1/inference_service_services_pb'
require 'aios/telemetry/v1/trace_service_services_pb'
require 'aios/trainer/v1/trainer_service_services_pb'
require 'grpc_service_services_pb'
require_relative 'connection'

# What the program does, one method a step.
class Path
  PIXELS = 28 * 28
  POLL_SECONDS = 0.25
  READY_SECONDS = 120
  RUN_SECONDS = 600
  TRACE_SECONDS = 20

  def initialize(connection)
    @authorization = connection.authorization
    @data = connection.stub(Aios::Data::V1::DataService)
    @trainer = connection.stub(Aios::Trainer::V1::TrainerService)
    @inference = connection.stub(Aios::Inference::V1::InferenceService)
    @traces = connection.stub(Aios::Telemetry::V1::TraceService)
    @predictor = connection.stub(Inference::GRPCInferenceService)
    @caller = connection.stub(Aios::Identity::V1::IdentityService).get_caller(Aios::Identity::V1::GetCallerRequest.new)
    @project = @caller.project
  end

  def walk(folder, name)
    seen = { language: 'ruby', subject: @caller.subject, project: @project, dataset: push(name, folder) }
    seen[:refused] = refused
    seen.merge!(submit(name, seen[:dataset]))
    seen.merge!(follow(seen[:run]))
    seen[:deployment] = deploy(name, seen[:modelVersion])
    seen.merge!(predict(name, folder))
    seen[:spans] = spans(seen[:traceId])
    seen[:deadline] = deadline
    seen[:cancelled] = cancelled
    @inference.delete_deployment(Aios::Inference::V1::DeleteDeploymentRequest.new(name: seen[:deployment]))
    seen
  end

  private

  # Stores every file of a folder as the next version of a dataset.
  def push(name, folder)
    files = Dir.glob('**/*', base: folder).select { |path| File.file?(File.join(folder, path)) }.map do |path|
      content = File.binread(File.join(folder, path))
      file = Aios::Common::V1::File.new(path: path, sha256: Digest::SHA256.hexdigest(content),
                                        size_bytes: content.bytesize)
      upload(file, content)
      file
    end
    create_dataset(name)
    @data.create_dataset_version(
      Aios::Data::V1::CreateDatasetVersionRequest.new(
        parent: "#{@project}/datasets/#{name}",
        dataset_version: Aios::Data::V1::DatasetVersion.new(files: files, message: 'pushed from Ruby'),
        request_id: SecureRandom.uuid
      )
    ).name
  end

  # Sends one file's bytes straight to the object store, unless the project has them.
  def upload(file, content)
    upload = @data.begin_upload(
      Aios::Data::V1::BeginUploadRequest.new(parent: @project, sha256: file.sha256, size_bytes: file.size_bytes)
    )
    return if upload.exists

    uri = URI(upload.url)
    answer = Net::HTTP.start(uri.host, uri.port, nil, use_ssl: uri.scheme == 'https') do |http|
      http.send_request('PUT', uri.request_uri, content, upload.headers.to_h)
    end
    # 412: somebody else has just put the same content.
    raise "The object store answered #{answer.code} to #{file.path}." unless %w[200 412].include?(answer.code)

    @data.complete_upload(Aios::Data::V1::CompleteUploadRequest.new(name: upload.name))
  end

  def create_dataset(name)
    @data.create_dataset(
      Aios::Data::V1::CreateDatasetRequest.new(parent: @project, dataset_id: name, request_id: SecureRandom.uuid)
    )
  rescue GRPC::AlreadyExists
    nil
  end

  # What the platform says of a run that cannot be right.
  def refused
    @trainer.create_run(run_request(Aios::Trainer::V1::RunSpec.new(recipe: 'no-such-recipe')))
    raise 'A run of no recipe was accepted.'
  rescue GRPC::InvalidArgument => e
    Errors.explain(e)
  end

  # Sends a run twice with one request_id, as a client does that did not hear the first answer: it is one run.
  def submit(name, dataset)
    settings = { 'epochs' => 1, 'batch_size' => 16 }.transform_values do |number|
      Google::Protobuf::Value.new(number_value: number)
    end
    request = run_request(
      Aios::Trainer::V1::RunSpec.new(
        recipe: 'image_classifier', dataset: dataset.delete_prefix("#{@project}/"), model: name, seed: 7,
        hyperparameters: Google::Protobuf::Struct.new(fields: settings)
      )
    )
    first = @trainer.create_run(request)
    second = @trainer.create_run(request)
    { run: first.name, replayed: first.name == second.name }
  end

  def run_request(spec)
    Aios::Trainer::V1::CreateRunRequest.new(parent: @project, request_id: SecureRandom.uuid,
                                            run: Aios::Trainer::V1::Run.new(spec: spec))
  end

  # Reads the run and its points as they arrive, until it has ended.
  def follow(run)
    states = []
    points = 0
    version = ''
    request = Aios::Trainer::V1::WatchMetricsRequest.new(parent: run)
    @trainer.watch_metrics(request, deadline: Time.now + RUN_SECONDS).each do |message|
      points += message.points.size
      version = message.run.model_version
      states << message.run.state unless states.last == message.run.state
      raise message.run.state_message if message.run.state == :STATE_FAILED
    end
    { states: states, points: points, modelVersion: version }
  end

  # Serves a model version and waits until it answers.
  def deploy(name, version)
    spec = Aios::Inference::V1::DeploymentSpec.new(model_version: version)
    deployment = @inference.create_deployment(
      Aios::Inference::V1::CreateDeploymentRequest.new(
        parent: @project, deployment_id: name, request_id: SecureRandom.uuid,
        deployment: Aios::Inference::V1::Deployment.new(spec: spec)
      )
    )
    request = Aios::Inference::V1::GetDeploymentRequest.new(name: deployment.name)
    ready = eventually(READY_SECONDS, deployment.name) do
      now = @inference.get_deployment(request)
      raise now.state_message if now.state == :STATE_DEGRADED

      now if now.state == :STATE_READY
    end
    ready.name
  end

  # Asks for the first test image. Tensors travel as raw little-endian bytes; the trace's id is ours to choose.
  def predict(name, folder)
    trace_id = SecureRandom.hex(16)
    request = Inference::ModelInferRequest.new(
      model_name: name,
      inputs: [Inference::ModelInferRequest::InferInputTensor.new(name: 'image', datatype: 'FP32',
                                                                  shape: [1, 1, 28, 28])],
      raw_input_contents: [first_image(File.join(folder, 'test', 'images.npy'))]
    )
    answer = @predictor.model_infer(request, metadata: { 'traceparent' => "00-#{trace_id}-#{SecureRandom.hex(8)}-01" })
    logits = answer.raw_output_contents.first.unpack('e*')
    { label: logits.each_with_index.max.last, traceId: trace_id }
  end

  # The first image of a NumPy file, as the model takes it: FP32, 0 to 1.
  def first_image(path)
    file = File.binread(path)
    start = 10 + file[8, 2].unpack1('S<')
    file[start, PIXELS].bytes.map { |value| value / 255.0 }.pack('e*')
  end

  # Spans arrive a moment after the answer: how many there are once the model's own is.
  def spans(trace_id)
    request = Aios::Telemetry::V1::GetTraceRequest.new(name: "#{@project}/traces/#{trace_id}")
    eventually(TRACE_SECONDS, request.name) do
      found = @traces.get_trace(request).spans
      found.size if found.any? { |span| span.service == 'triton' }
    rescue GRPC::NotFound
      nil
    end
  end

  # How a watch ends that may take half a second.
  def deadline
    ended(@trainer.watch_runs(watch, deadline: Time.now + 0.5))
  end

  # How a watch ends that nobody wants any more.
  def cancelled
    operation = @trainer.watch_runs(watch, metadata: @authorization, return_op: true)
    ended(operation.execute) { operation.cancel }
  end

  def ended(messages, &seen)
    messages.each { |message| seen&.call(message) }
    'OK'
  rescue GRPC::BadStatus => e
    Errors.code(e)
  end

  def watch
    Aios::Trainer::V1::WatchRunsRequest.new(parent: @project)
  end

  # The first answer of the block that is not nil.
  def eventually(seconds, what)
    give_up = Time.now + seconds
    loop do
      found = yield
      return found unless found.nil?
      raise "#{what} is not there after #{seconds} s." if Time.now > give_up

      sleep POLL_SECONDS
    end
  end
end

abort 'usage: ruby main.rb FOLDER NAME' if ARGV.size != 2

connection = Connection.new(ENV.fetch('AIOS_ADDRESS', 'http://127.0.0.1:8080'), ENV.fetch('AIOS_TOKEN', ''))
puts JSON.generate(Path.new(connection).walk(*ARGV))
