package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// How long what is made here is good for.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
)

// certificate is the one to serve with: the user's, or one of our own authority,
// made anew at each start (for the addresses that the host has now).
func (o options) certificate(say func(string)) (tls.Certificate, error) {
	if o.cert != "" {
		c, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return c, fmt.Errorf("certificate: %w", err)
		}
		return c, nil
	}
	dir := filepath.Join(o.root, "tls")
	ca, err := authority(dir)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate authority: %w", err)
	}
	say("Clients trust it with the certificate " + filepath.Join(dir, "ca.crt"))
	names, ips, err := hostNames(o.listen)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	template, err := newTemplate("hull registry", certificateLife)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.DNSNames, template.IPAddresses = names, ips
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der, ca.Certificate[0]}, PrivateKey: key}, nil
}

// authority is the one in dir, made when there is none.
func authority(dir string) (tls.Certificate, error) {
	cert, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	c, err := tls.LoadX509KeyPair(cert, key)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, err
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	template, err := newTemplate("hull registry authority", authorityLife)
	if err != nil {
		return c, err
	}
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		return c, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return c, err
	}
	if err := writePEM(key, "PRIVATE KEY", secret, 0o600); err != nil {
		return c, err
	}
	if err := writePEM(cert, "CERTIFICATE", der, 0o644); err != nil {
		return c, err
	}
	return tls.LoadX509KeyPair(cert, key)
}

func newTemplate(name string, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
	}, nil
}

// hostNames are the names and addresses by which clients may reach the address.
func hostNames(listen string) ([]string, []net.IP, error) {
	names, ips := []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if h, err := os.Hostname(); err == nil {
		names = append(names, h)
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, nil, fmt.Errorf("address to serve %q: %w", listen, err)
	}
	if ip := net.ParseIP(host); ip == nil && host != "" {
		names = append(names, host)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return names, ips, nil
}

func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Close())
}
