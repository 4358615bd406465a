const assert = require("node:assert");
const test = require("node:test");
const fc = require("fast-check");
const semver = require("semver");
const { inOrder } = require("..");

test("ten comes after nine", () => {
  assert.deepStrictEqual(inOrder(["1.10.0", "1.9.0"]), ["1.9.0", "1.10.0"]);
});

test("a pre-release comes before its release", () => {
  assert.deepStrictEqual(inOrder(["2.0.0", "2.0.0-rc.1"]), ["2.0.0-rc.1", "2.0.0"]);
});

test("no version comes before an older one", () => {
  const version = fc.tuple(fc.nat(20), fc.nat(20), fc.nat(20)).map((parts) => parts.join("."));
  fc.assert(
    fc.property(fc.array(version), (versions) => {
      const sorted = inOrder(versions);
      return sorted.every((each, at) => at === 0 || semver.lte(sorted[at - 1], each));
    }),
    { seed: 1 },
  );
});

test("what is no version is named", () => {
  assert.throws(() => inOrder(["1.0.0", "latest"]), /not a version: latest/);
});
