// Tokens in rank: by logit, and among equal ones the lower id first. What is kept of them is always
// the first so many: those up to a cut, found by bisection, two bits at a time.
// Kept: logits whose key is above, and those whose key is equal and whose id is below the bound.
struct Cut { key: u32, bound: u32 }

// What does not change while a row is sampled: which one it is, and its largest logit.
struct Row { at: u32, top: f32 }

fn is_kept(keys: vec4<u32>, quad: u32, cut: Cut) -> vec4<bool> {
    let id = ids(quad);
    let before = (keys > vec4(cut.key)) | ((keys == vec4(cut.key)) & (id < vec4(cut.bound)));
    return before & (id < vec4(params.vocabulary));
}

// Of the kept tokens whose key is at least each of the bounds, how many there are or what they weigh.
fn at_least(row: Row, lane: u32, cut: Cut, by_weight: bool, bounds: vec4<u32>) -> vec4<f32> {
    let temperature = settings[row.at].temperature;
    var sum = vec4(0.0);
    for (var quad = lane; quad < quads(); quad += LANES) {
        let x = scores(row.at, quad);
        let keys = key_of(x);
        let value = select(vec4(1.0), weight(x, row.top, temperature), by_weight);
        let kept = select(vec4(0.0), value, is_kept(keys, quad, cut));
        sum += select(vec4(0.0), vec4(kept.x), vec4(keys.x) >= bounds);
        sum += select(vec4(0.0), vec4(kept.y), vec4(keys.y) >= bounds);
        sum += select(vec4(0.0), vec4(kept.z), vec4(keys.z) >= bounds);
        sum += select(vec4(0.0), vec4(kept.w), vec4(keys.w) >= bounds);
    }
    return workgroup_sum_vec4(lane, sum);
}

// How many of the kept tokens of this key have an id below each of the bounds.
fn ties_below(row: Row, lane: u32, cut: Cut, key: u32, bounds: vec4<u32>) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var quad = lane; quad < quads(); quad += LANES) {
        let keys = key_of(scores(row.at, quad));
        let tie = is_kept(keys, quad, cut) & (keys == vec4(key));
        let id = ids(quad);
        sum += select(vec4(0.0), vec4(1.0), (vec4(id.x) < bounds) & vec4(tie.x));
        sum += select(vec4(0.0), vec4(1.0), (vec4(id.y) < bounds) & vec4(tie.y));
        sum += select(vec4(0.0), vec4(1.0), (vec4(id.z) < bounds) & vec4(tie.z));
        sum += select(vec4(0.0), vec4(1.0), (vec4(id.w) < bounds) & vec4(tie.w));
    }
    return workgroup_sum_vec4(lane, sum);
}

// How many of four steps to go: the sums of rising bounds fall.
fn steps(reached: vec4<bool>) -> u32 {
    return select(select(select(0u, 1u, reached.x), 2u, reached.y), 3u, reached.z);
}

// The cut behind the first tokens whose number or weight is at least the wanted one.
fn cut_at(row: Row, lane: u32, cut: Cut, by_weight: bool, wanted: f32) -> Cut {
    let three = vec4(1u, 2u, 3u, 3u);
    var key = 0u; // the largest at which enough is reached
    for (var i = 0u; i < 16u; i++) {
        let step = 1u << (30u - 2u * i);
        let sums = at_least(row, lane, cut, by_weight, key + step * three);
        key += step * steps(sums >= vec4(wanted));
    }
    let above = at_least(row, lane, cut, by_weight, vec4(key + 1u)).x;
    let ties = ties_below(row, lane, cut, key, vec4(ALL)).x;
    let weighs = weight(vec4(of_key(key)), row.top, settings[row.at].temperature).x;
    let each = select(1.0, weighs, by_weight);
    let needed = clamp(ceil((wanted - above) / each), 1.0, ties);
    if needed == ties { return Cut(key, select(ALL, cut.bound, key == cut.key)); }
    var last = 0u; // the id before which fewer than needed are
    for (var i = 0u; i < 16u; i++) {
        let step = 1u << (30u - 2u * i);
        if step > params.vocabulary { continue; }
        let sums = ties_below(row, lane, cut, key, last + step * three);
        last += step * steps(sums < vec4(needed));
    }
    return Cut(key, last + 1u);
}
