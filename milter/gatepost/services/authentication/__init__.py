"""Who a message comes from: SPF, DKIM, ARC, DMARC, and the field that tells of them."""
