package engine

import "math/rand/v2"

// randomName is two words, for people: a manner and a part or person of ships.
func randomName() string {
	manner := []string{
		"able", "ample", "brave", "brisk", "bright", "calm", "clever", "crisp", "daring", "eager", "early", "fair",
		"fast", "fine", "firm", "fleet", "fond", "frank", "fresh", "gentle", "glad", "grand", "handy", "happy", "hardy",
		"honest", "jolly", "keen", "kind", "level", "light", "lively", "loyal", "lucid", "lucky", "merry", "mild",
		"neat", "nimble", "noble", "patient", "plain", "proud", "quick", "quiet", "ready", "robust", "royal", "sharp",
		"silent", "sleek", "smart", "smooth", "snug", "solid", "steady", "stout", "strong", "sturdy", "sunny", "swift",
		"tidy", "trim", "true", "trusty", "upbeat", "vivid", "warm", "wise", "witty", "young", "zesty",
	}
	ship := []string{
		"anchor", "ballast", "barge", "beacon", "berth", "boom", "bosun", "bow", "bridge", "brig", "bulwark", "buoy",
		"cabin", "canvas", "capstan", "captain", "chart", "cleat", "clipper", "compass", "cutter", "davit", "deck",
		"dinghy", "draft", "ensign", "ferry", "fender", "frigate", "gaff", "galley", "gangway", "halyard", "harbor",
		"hatch", "helm", "hold", "jetty", "jib", "keel", "ketch", "knot", "ladder", "lagoon", "lantern", "lighthouse",
		"mainsail", "mast", "mate", "mizzen", "mooring", "oar", "pennant", "pier", "pilot", "port", "prow", "quay",
		"raft", "reef", "rigging", "rudder", "sail", "schooner", "sextant", "skiff", "sloop", "spar", "starboard",
		"stern", "tender", "tide", "tiller", "topsail", "tug", "vessel", "wake", "wharf", "winch", "yawl",
	}
	return manner[rand.IntN(len(manner))] + "_" + ship[rand.IntN(len(ship))] //nolint:gosec // a name, no secret
}
