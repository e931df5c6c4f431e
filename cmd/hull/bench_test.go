package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// BenchmarkPs1000 is the client's part of "ps" with a thousand containers: decode
// and print.
func BenchmarkPs1000(b *testing.B) {
	var list []container.Summary
	for i := range 1000 {
		list = append(list, container.Summary{
			ID: fmt.Sprintf("%064x", i), Names: []string{fmt.Sprintf("/name%d", i)}, Image: "busybox:latest", ImageID: fmt.Sprintf("sha256:%064x", i),
			Command: "sleep infinity", Status: "Up 2 hours", State: "running", Ports: testPorts("0.0.0.0/80/8080/tcp"),
			NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{"bridge": {NetworkID: fmt.Sprintf("%064x", i)}}},
		})
	}
	body, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var got []summary
		if err := json.Unmarshal(body, &got); err != nil {
			b.Fatal(err)
		}
		var out bytes.Buffer
		if !table(&out, got, false, time.Now()) {
			b.Fatal("handed over")
		}
	}
}
