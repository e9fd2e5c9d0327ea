// Node.js's own gRPC client: node client.js ADDRESS [CA.pem]. Prints what it got, as one line of JSON.
const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, ca] = process.argv.slice(2);
const proto = path.join(__dirname, "../../../proto/open_inference.proto");
const { inference } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true }));
const credentials = ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
const client = new inference.GRPCInferenceService(address, credentials);

const tensor = { name: "images", datatype: "UINT8", shape: [1, 28, 28, 1] };
const question = { model_name: "mnist-tiny", inputs: [tensor], raw_input_contents: [Buffer.alloc(784)] };

// Resolves to the answer, or to the code and the details of the error.
function ask(request, deadlineMs) {
  return new Promise((resolve) => {
    client.ModelInfer(request, { deadline: Date.now() + deadlineMs }, (error, answer) =>
      resolve(error ? { code: error.code, details: error.details } : answer));
  });
}

function converse(requests) {
  return new Promise((resolve, reject) => {
    const ids = [];
    const call = client.ModelStreamInfer({ deadline: Date.now() + 30000 });
    call.on("data", (answer) => ids.push(answer.infer_response.id));
    call.on("error", reject);
    call.on("end", () => resolve(ids));
    for (const request of requests) call.write(request);
    call.end();
  });
}

async function main() {
  const numbers = [...Array(200).keys()].map((number) => `request-${number}`);
  const answers = await Promise.all(numbers.map((id) => ask({ ...question, id }, 30000)));
  const found = {
    ids: answers.map((answer) => answer.id),
    outputs: answers[0].raw_output_contents.map((bytes) => bytes.toString("base64")),
    unknown: await ask({ ...question, model_name: "nothing" }, 30000),
    late: (await ask(question, -1)).code,
    streamed: await converse(numbers.slice(0, 10).map((id) => ({ ...question, id }))),
  };
  console.log(JSON.stringify(found));
  client.close();
}

main();
