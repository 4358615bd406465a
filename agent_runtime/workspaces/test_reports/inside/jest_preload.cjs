// Loaded by every node process (NODE_OPTIONS): asks jest, and nothing else, for its JSON report.
// The report goes into a pipe beside this file. Jest's own options, reporters included, stay.
'use strict';
try {
  const fs = require('fs');
  const path = require('path');
  const script = process.argv[1] ? fs.realpathSync(process.argv[1]) : '';
  const jest = /[\\/](jest|jest-cli)[\\/]bin[\\/]jest\.js$|[\\/]react-scripts[\\/]scripts[\\/]test\.js$/;
  const own = /^--?(json|outputFile|listTests|showConfig|init|version|v|help|h|watch|watchAll|clearCache)\b/;
  if (jest.test(script) && !process.env.AGENT_RUNTIME_REPORTING
      && !process.argv.slice(2).some((argument) => own.test(argument))) {
    process.env.AGENT_RUNTIME_REPORTING = String(process.pid);
    process.argv.splice(2, 0, '--json', `--outputFile=${path.join(__dirname, 'jest')}`);
  }
} catch {
  // It runs without.
}
