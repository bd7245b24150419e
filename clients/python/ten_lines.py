import sys, uuid, zmq

socket = zmq.Context().socket(zmq.REQ)
socket.connect(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")
socket.send_json({"id": uuid.uuid4().hex, "generate": {"text": "<bos> + 3 * 2 4 <ans>", "max_new_tokens": 1}})
answer = socket.recv_json()["completed"]
print(answer["text"], "at depth", answer["depths"][0])
print("depth spent per prompt token:", answer["prompt_depths"])
