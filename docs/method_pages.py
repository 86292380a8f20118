r"""What the pages of the methods say beside the registry: the formula, and when the map misleads.

In the formulas A_c is channel c of the layer's map, y the explained score, P the number of positions p, x the image.
"""

FORMULAS = {
    "cam": r"M = \sum_c w_c A_c, \quad y = \sum_c w_c \frac{1}{P}\sum_p A_c(p) + b",
    "gmp_cam": r"M = \sum_c w_c A_c, \quad y = \sum_c w_c \max_p A_c(p) + b",
    "eigen_cam": r"M = \mathrm{ReLU}\left(\pm\sum_c v_c (A_c - \overline{A}_c)\right), \quad v \text{ the first principal component}",
    "eigen_grad_cam": r"M = \mathrm{ReLU}\left(\pm\sum_c v_c (B_c - \overline{B}_c)\right), \quad B_c = A_c \frac{\partial y}{\partial A_c}",
    "grad_cam": r"M = \mathrm{ReLU}\left(\sum_c \alpha_c A_c\right), \quad \alpha_c = \frac{1}{P}\sum_p \frac{\partial y}{\partial A_c(p)}",
    "grad_cam_pp": r"M = \mathrm{ReLU}\left(\sum_c A_c \sum_p \frac{g_c(p)^2 \, \mathrm{ReLU}(g_c(p))}{2 g_c(p)^2 + g_c(p)^3 \sum_q A_c(q)}\right), \quad g_c = \frac{\partial y}{\partial A_c}",
    "xgrad_cam": r"M = \mathrm{ReLU}\left(\sum_c \alpha_c A_c\right), \quad \alpha_c = \sum_p \frac{A_c(p)}{\sum_q A_c(q)} \frac{\partial y}{\partial A_c(p)}",
    "hires_cam": r"M = \mathrm{ReLU}\left(\sum_c \frac{\partial y}{\partial A_c} \odot A_c\right)",
    "layer_cam": r"M = \mathrm{ReLU}\left(\sum_c \mathrm{ReLU}\left(\frac{\partial y}{\partial A_c}\right) \odot A_c\right)",
    "grad_cam_elementwise": r"M = \mathrm{ReLU}\left(\sum_c \mathrm{ReLU}\left(\frac{\partial y}{\partial A_c} \odot A_c\right)\right)",
    "score_cam": r"M = \mathrm{ReLU}\left(\sum_c \alpha_c A_c\right), \quad \alpha = \mathrm{softmax}_c\left(y(x \odot s(\mathrm{up}(A_c)))\right), \quad s \text{ scales to } [0, 1]",
    "ablation_cam": r"M = \mathrm{ReLU}\left(\sum_c \frac{y - y_{A_c = 0}}{y} A_c\right)",
    "rise": r"M(p) = \frac{1}{N \, E[m]} \sum_{i=1}^{N} y(x \odot m_i) \, m_i(p)",
    "occlusion": r"M(p) = \mathrm{mean}_{w \ni p} \left(y(x) - y(x_{w \leftarrow \mathrm{baseline}})\right)",
    "saliency": r"M = \max_{\mathrm{colours}} \left|\frac{\partial y}{\partial x}\right|",
    "input_x_gradient": r"a = x \odot \frac{\partial y}{\partial x}",
    "deconvnet": r"R^{l} = \mathrm{ReLU}(R^{l+1}) \text{ in place of the derivative of each ReLU}",
    "guided_backprop": r"R^{l} = \mathrm{ReLU}(R^{l+1}) \, [A^{l} > 0] \text{ in place of the derivative of each ReLU}",
    "guided_grad_cam": r"a = a_{\mathrm{guided}} \odot \mathrm{up}(M_{\mathrm{Grad\text{-}CAM}})",
    "integrated_gradients": r"a = (x - x_0) \odot \int_0^1 \frac{\partial y}{\partial x}\left(x_0 + t (x - x_0)\right) dt",
    "smooth_grad": r"a = \frac{1}{n}\sum_{i=1}^{n} \frac{\partial y}{\partial x}(x + \epsilon_i), \quad \epsilon_i \sim N(0, \sigma^2)",
    "full_grad": r"M = \psi\left(x \odot \frac{\partial y}{\partial x}\right) + \sum_l \sum_c \psi\left(b^l_c \frac{\partial y}{\partial b^l_c}\right), \quad \psi = \mathrm{up}(\text{scaled } |\cdot|)",
}

MISLEADS = {
    "cam": "It is exact, and only for a network of that form: pooling over all positions, then one linear layer. Its map is coarse.",
    "gmp_cam": "The score looks at one position of each channel, the map shows the channel everywhere.",
    "eigen_cam": "It does not know the class: two classes have one map. It shows what varies most in the layer, used or not.",
    "eigen_grad_cam": "The sign is a convention; where no component dominates, small changes of the image exchange it.",
    "grad_cam": "The mean over the positions mixes what pulls the score up in one place and down in another: the map can mark regions "
    "that the network does not use, above all of a detection, and in layers far from the output.",
    "grad_cam_pp": "Its weights hold for the exponential of the score; negative evidence is dropped before the sum.",
    "xgrad_cam": "Where a channel's activations sum to almost nothing, the weight is a quotient of small numbers.",
    "hires_cam": "Behind layers with large gradients at few positions it is spotted; in front of the last convolution it equals CAM.",
    "layer_cam": "Negative gradients are dropped, so that evidence against the class, and classes in each other's way, do not show.",
    "grad_cam_elementwise": "Negative products are dropped channel by channel: what other channels take back is still shown.",
    "score_cam": "Masked images are unlike anything the network has seen; a softmax over the channels lets the best few decide.",
    "ablation_cam": "Setting a channel to zero is unusual where zero is; channels that replace each other all look unimportant.",
    "rise": "With few masks the noise of the sampling is taken for structure: compare two seeds. Cells set the finest detail.",
    "occlusion": "It shows what a window of that size at that place changes. Parts that replace each other do not show alone; black or "
    'grey windows are themselves something to see: try `baseline="blur"`.',
    "saliency": "It says what a small change would do, not what the score is made of; it is noisy, and flat where the score is saturated.",
    "input_x_gradient": "Dark pixels get nothing, whatever they mean; the zero of the input is the baseline, without being chosen.",
    "deconvnet": "It depends little on the class and much on the shapes in the image: it can look right for random weights.",
    "guided_backprop": "It restores edges of the image and passes some tests of random weights no better than an edge detector does.",
    "guided_grad_cam": "The fine detail is that of guided backpropagation, with its weakness; only the region is Grad-CAM's.",
    "integrated_gradients": 'It depends on the baseline: what is as dark as a black one gets nothing. Check `details["completeness_gap"]`.',
    "smooth_grad": "It explains the network on noisy images, and a smoother picture need not be a truer one.",
    "full_grad": "Of networks with other layers than convolutions, linear layers, batch norm, pooling and ReLU it tells a part: see "
    '`details["completeness_gap"]`. Signs are lost, as the paper has it.',
}
