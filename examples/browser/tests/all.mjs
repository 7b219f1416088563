// node tests/all.mjs SITE [SCREENSHOTS] [EXCHANGE]
//
// Tests of the built page in headless Chromium, on whatever adapter it has (SwiftShader where there
// is no GPU). SCREENSHOTS is a folder for pictures, EXCHANGE one for a checkpoint and an adapter that a
// native program goes on with. The exit code says whether all passed.
import * as fineTuning from './finetune.mjs';
import * as page from './page.mjs';
import { runAll } from './run.mjs';

await runAll('tests/all.mjs', [page, fineTuning]);
