// This file lets the package declare functions of the Go runtime without a body.
