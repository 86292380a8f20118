// A worker in a frame, for pages opened from disk, where browsers allow no other: the search of the site needs one.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const base = new URL(url, location.href).href;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      const inner = frame.contentWindow;
      this.inner = inner;
      this.queue = [];
      inner.postMessage = (data) => {
        const message = new MessageEvent("message", { data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      inner.importScripts = (...urls) =>
        urls.reduce(
          (before, each) =>
            before.then(
              () =>
                new Promise((resolve, reject) => {
                  const script = inner.document.createElement("script");
                  script.src = new URL(each, base).href;
                  script.onload = resolve;
                  script.onerror = reject;
                  inner.document.head.append(script);
                }),
            ),
          Promise.resolve(),
        );
      inner.importScripts(base).then(() => {
        this.queue.forEach((data) => this.deliver(data));
        this.queue = null;
      });
    }

    postMessage(data) {
      if (this.queue) this.queue.push(data);
      else this.deliver(data);
    }

    deliver(data) {
      const event = new this.inner.MessageEvent("message", { data });
      this.inner.dispatchEvent(event);
    }

    terminate() {}
  };
}
