// Puts the versions of a package in order, the oldest first.
const semver = require("semver");

exports.inOrder = (versions) => {
  const wrong = versions.find((version) => !semver.valid(version));
  if (wrong !== undefined) throw new TypeError(`not a version: ${wrong}`);
  return [...versions].sort();
};
