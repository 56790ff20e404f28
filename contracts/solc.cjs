#!/usr/bin/env node
// The compiler as forge and scripts/build-contracts call it: npm's solc behind the two options they use.
// (solcjs's own --standard-json prints a line before the JSON, which forge cannot read.)
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require(path.join(__dirname, "node_modules", "solc"));

if (process.argv.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface\nVersion: " + solc.version());
} else if (process.argv.includes("--standard-json")) {
  const output = solc.compile(fs.readFileSync(0, "utf8"));
  fs.writeFileSync(1, output);
} else {
  console.error("solc.cjs: only --version and --standard-json");
  process.exit(2);
}
