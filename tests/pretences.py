"""Back ends of Keras that only pretend to be there."""

import types

import engine.network.devices


def pretendBackend(monkeypatch, name, gpus):
    """Set the back end and the GPUs that it sees."""
    keras = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: name))
    monkeypatch.setattr(engine.network.devices, "loadKeras", lambda: keras)
    library = types.SimpleNamespace(
        config=types.SimpleNamespace(
            list_physical_devices=lambda kind: [types.SimpleNamespace(name=gpu) for gpu in gpus],
            experimental=types.SimpleNamespace(get_device_details=lambda gpu: {"device_name": gpu.name}),
        ),
        local_devices=lambda: (
            [types.SimpleNamespace(device_kind=gpu, platform="gpu") for gpu in gpus]
            or [types.SimpleNamespace(device_kind="cpu", platform="cpu")]
        ),
    )
    monkeypatch.setattr(engine.network.devices.importlib, "import_module", lambda wanted: library)
