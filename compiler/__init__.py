"""The compiler: graphs, exact merges, compression, cost and search. It knows no runtime SDK and no phone."""
